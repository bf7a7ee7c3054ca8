# What follows from the settings. No resource is here, so terraform checks this module without a provider.

locals {
  # As in helm/antipode: the machine type, its chips, and the number of machines.
  slices = {
    "v5e:1x1"   = { machine = "ct5lp-hightpu-1t", chips = 1, hosts = 1 }
    "v5e:2x2"   = { machine = "ct5lp-hightpu-4t", chips = 4, hosts = 1 }
    "v5e:2x4"   = { machine = "ct5lp-hightpu-8t", chips = 8, hosts = 1 }
    "v5e:4x4"   = { machine = "ct5lp-hightpu-4t", chips = 4, hosts = 4 }
    "v5p:2x2x1" = { machine = "ct5p-hightpu-4t", chips = 4, hosts = 1 }
    "v5p:2x2x2" = { machine = "ct5p-hightpu-4t", chips = 4, hosts = 2 }
    "v6e:1x1"   = { machine = "ct6e-standard-1t", chips = 1, hosts = 1 }
    "v6e:2x2"   = { machine = "ct6e-standard-4t", chips = 4, hosts = 1 }
    "v6e:2x4"   = { machine = "ct6e-standard-8t", chips = 8, hosts = 1 }
    "v6e:4x4"   = { machine = "ct6e-standard-4t", chips = 4, hosts = 4 }
    "v7x:2x2x1" = { machine = "tpu7x-standard-4t", chips = 4, hosts = 1 }
    "v7x:2x2x2" = { machine = "tpu7x-standard-4t", chips = 4, hosts = 2 }
  }

  generation = split(":", var.slice)[0]
  slice      = local.slices[var.slice]
  dranet     = contains(["v6e", "v7x"], local.generation)
  chips      = var.replicas * local.slice.hosts * local.slice.chips
  window_end = tonumber(substr(var.maintenance.start, 0, 2)) + var.maintenance.hours
  buckets    = { for region in keys(var.regions) : region => "${var.bucket}-${region}" }
  spot       = var.capacity == "spot"
  # The families of other generations have no published name in the quota that is read.
  quota = { for region in keys(var.regions) : region => local.chips if local.generation == "v6e" && var.capacity == "onDemand" }
  # A spot node takes this long to end, the most that GKE gives it. The last seconds are for system pods.
  spot_seconds           = 120
  spot_seconds_of_system = 15
}

output "windows" {
  description = "Each region's maintenance window. The day it begins counts from a Monday: the rule says which days follow."
  value = {
    for name, region in var.regions : name => {
      start      = "2026-01-05T${var.maintenance.start}:00Z"
      end        = format("2026-01-05T%02d%s:00Z", local.window_end, substr(var.maintenance.start, 2, 3))
      recurrence = "FREQ=WEEKLY;BYDAY=${join(",", [for day in ["MO", "TU", "WE", "TH", "FR", "SA", "SU"] : day if contains(region.maintenance_days, day)])}"
    }
  }
}

output "tpu" {
  description = "The node pools of a region's TPUs, by name with their nodes, and what is the same for all of them."
  value = {
    machine_type = local.slice.machine
    topology     = split(":", var.slice)[1]
    hosts        = local.slice.hosts
    dranet       = local.dranet
    # Slices of one host are nodes of one pool. A slice of several hosts is its own pool.
    pools = (local.slice.hosts == 1 ? { tpu = var.replicas } :
    { for replica in range(var.replicas) : "tpu-${replica}" => local.slice.hosts })
    # The first label starts the DRANET driver. The second one switches the device plugin of TPUs off, so that a
    # driver offers the chips to claims.
    labels = merge(
      local.dranet ? { "cloud.google.com/gke-networking-dra-driver" = "true" } : {},
      var.slice_chips == "claim" ? { "cloud.google.com/gke-tpu-dra-driver" = "true" } : {},
    )
    # Null: not a spot node.
    spot = local.spot ? { seconds = local.spot_seconds, seconds_of_system = local.spot_seconds_of_system } : null
  }
}

output "group_ports" {
  description = "Between the hosts of a slice: the leader's group port and JAX's coordinator, and two of libtpu."
  value       = local.slice.hosts == 1 ? [] : ["9200", "9201", "8471", "8476"]
}

output "buckets" {
  value = local.buckets
}

output "quota" {
  description = "The chips that each region needs of a quota that can be read; empty if there is none."
  value       = local.quota
}

output "helm_values" {
  value = {
    for name, region in var.regions : name => yamlencode({
      region     = name
      slice      = var.slice
      sliceChips = var.slice_chips
      replicas   = var.replicas
      dranet     = { enabled = local.dranet }
      model      = { bucket = local.buckets[name] }
      residency  = var.residency
      # With residency region the proxies of other regions do not reach the server.
      networkPolicy = { proxyRanges = [for other, each in var.regions : each.proxies if var.residency == "any" || other == name] }
      nodeSelector  = local.spot ? { "cloud.google.com/gke-spot" = "true" } : {}
      spotSeconds   = local.spot ? local.spot_seconds - local.spot_seconds_of_system : 15
    })
  }
}

output "gateway_values" {
  description = "By the region of the cluster that the chart is installed in: the config cluster, or every one."
  value = {
    for name in keys(var.regions) : name => yamlencode({
      regions   = var.residency == "any" ? keys(var.regions) : [name]
      residency = var.residency
      gke       = { addressPrefix = "${var.name}-" }
    }) if var.residency == "region" || name == var.config_region
  }
}

output "summary" {
  value = {
    clusters       = length(var.regions)
    tpu_chips      = "${local.chips} of ${local.generation} per region, ${local.chips * length(var.regions)} in all (${var.capacity})"
    quota          = length(local.quota) > 0 ? "compared with the project's" : "not compared: only that of v6e on demand can be read"
    tpu_nodes      = "${var.replicas * local.slice.hosts} ${local.slice.machine} per region"
    other_nodes    = "one per zone of each region"
    load_balancers = "one internal address per region, and the proxies that GKE starts for the gateway"
    chips_per_hour = (length(setsubtract(keys(var.regions), keys(var.chip_price))) > 0 ?
      "unknown: chip_price has no price for ${join(", ", setsubtract(keys(var.regions), keys(var.chip_price)))}" :
    format("%.2f, for the chips only", sum([for region in keys(var.regions) : local.chips * var.chip_price[region]])))
  }
}
