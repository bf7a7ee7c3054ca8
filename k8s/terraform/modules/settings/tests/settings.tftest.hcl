# terraform test, in modules/settings. It needs no provider.

variables {
  name          = "antipode"
  bucket        = "weights"
  residency     = "any"
  config_region = "europe-west4"
  maintenance   = { start = "02:00", hours = 8 }
  channel       = "REGULAR"
  slice         = "v6e:2x2"
  slice_chips   = "devicePlugin"
  replicas      = 2
  capacity      = "onDemand"
  reservations  = {}
  chip_price    = { europe-west4 = 3, us-east5 = 2.5 }
  regions = {
    europe-west4 = {
      zone             = "europe-west4-a"
      nodes            = "10.0.1.0/24"
      pods             = "10.16.0.0/16"
      services         = "10.32.0.0/20"
      proxies          = "10.1.1.0/24"
      maintenance_days = ["WE", "MO"]
    }
    us-east5 = {
      zone             = "us-east5-b"
      nodes            = "10.0.2.0/24"
      pods             = "10.17.0.0/16"
      services         = "10.32.16.0/20"
      proxies          = "10.1.2.0/24"
      maintenance_days = ["TU", "TH"]
    }
  }
}

run "windows_of_two_regions_share_no_day" {
  command = plan

  assert {
    condition = output.windows == {
      europe-west4 = { start = "2026-01-05T02:00:00Z", end = "2026-01-05T10:00:00Z", recurrence = "FREQ=WEEKLY;BYDAY=MO,WE" }
      us-east5     = { start = "2026-01-05T02:00:00Z", end = "2026-01-05T10:00:00Z", recurrence = "FREQ=WEEKLY;BYDAY=TU,TH" }
    }
    error_message = "The windows are ${jsonencode(output.windows)}."
  }
}

run "slices_of_one_host_are_nodes_of_one_pool" {
  command = plan

  assert {
    condition     = output.tpu.pools == tomap({ tpu = 2 }) && length(output.group_ports) == 0
    error_message = "The pools are ${jsonencode(output.tpu.pools)}."
  }
  assert {
    condition     = output.tpu.labels == tomap({ "cloud.google.com/gke-networking-dra-driver" = "true" })
    error_message = "The labels are ${jsonencode(output.tpu.labels)}."
  }
}

run "slices_of_several_hosts_are_pools_whose_hosts_talk" {
  command = plan
  variables { slice = "v6e:4x4" }

  assert {
    condition     = output.tpu.pools == tomap({ tpu-0 = 4, tpu-1 = 4 })
    error_message = "The pools are ${jsonencode(output.tpu.pools)}."
  }
  assert {
    condition     = toset(output.group_ports) == toset(["8471", "8476", "9200", "9201"])
    error_message = "The ports are ${jsonencode(output.group_ports)}."
  }
}

run "nodes_whose_chips_are_claimed_have_the_label_that_switches_the_device_plugin_off" {
  command = plan
  variables { slice_chips = "claim" }

  assert {
    condition     = output.tpu.labels["cloud.google.com/gke-tpu-dra-driver"] == "true"
    error_message = "The labels are ${jsonencode(output.tpu.labels)}."
  }
}

run "machines_without_dranet_get_no_interfaces" {
  command = plan
  variables { slice = "v5e:2x4" }

  assert {
    condition     = !output.tpu.dranet && length(output.tpu.labels) == 0
    error_message = "The pools of v5e are made for DRANET."
  }
  assert {
    condition     = length(output.quota) == 0 && startswith(output.summary.quota, "not compared")
    error_message = "The quota of v5e is compared with that of v6e."
  }
}

run "the_quota_of_chips_on_demand_is_compared" {
  command = plan

  assert {
    condition     = output.quota == { europe-west4 = 8, us-east5 = 8 }
    error_message = "The chips are ${jsonencode(output.quota)}."
  }
}

run "a_spot_node_tells_the_chart_how_long_a_pod_may_take" {
  command = plan
  variables { capacity = "spot" }

  assert {
    condition     = output.tpu.spot.seconds == yamldecode(output.helm_values.us-east5).spotSeconds + output.tpu.spot.seconds_of_system
    error_message = "Chart and nodes disagree: ${output.helm_values.us-east5}"
  }
  assert {
    condition     = length(output.quota) == 0
    error_message = "The quota of spot chips is compared with that on demand."
  }
}

run "the_summary_says_what_the_chips_cost" {
  command = plan

  assert {
    condition     = output.summary.chips_per_hour == "44.00, for the chips only"
    error_message = "The chips cost ${output.summary.chips_per_hour}."
  }
}

run "a_price_that_nobody_gave_is_said_to_be_unknown" {
  command = plan
  variables { chip_price = { us-east5 = 2.5 } }

  assert {
    condition     = output.summary.chips_per_hour == "unknown: chip_price has no price for europe-west4"
    error_message = "The chips cost ${output.summary.chips_per_hour}."
  }
}

run "a_shared_day_is_refused" {
  command = plan
  variables {
    regions = {
      europe-west4 = { zone = "europe-west4-a", nodes = "10.0.1.0/24", pods = "10.16.0.0/16", services = "10.32.0.0/20", proxies = "10.1.1.0/24", maintenance_days = ["MO", "TU"] }
      us-east5     = { zone = "us-east5-b", nodes = "10.0.2.0/24", pods = "10.17.0.0/16", services = "10.32.16.0/20", proxies = "10.1.2.0/24", maintenance_days = ["TU", "TH"] }
    }
  }
  expect_failures = [var.regions]
}

run "one_region_is_refused" {
  command = plan
  variables {
    regions = {
      europe-west4 = { zone = "europe-west4-a", nodes = "10.0.1.0/24", pods = "10.16.0.0/16", services = "10.32.0.0/20", proxies = "10.1.1.0/24", maintenance_days = ["MO", "TU"] }
    }
  }
  expect_failures = [var.regions]
}

run "a_zone_of_another_region_is_refused" {
  command = plan
  variables {
    regions = {
      europe-west4 = { zone = "us-east5-a", nodes = "10.0.1.0/24", pods = "10.16.0.0/16", services = "10.32.0.0/20", proxies = "10.1.1.0/24", maintenance_days = ["MO", "WE"] }
      us-east5     = { zone = "us-east5-b", nodes = "10.0.2.0/24", pods = "10.17.0.0/16", services = "10.32.16.0/20", proxies = "10.1.2.0/24", maintenance_days = ["TU", "TH"] }
    }
  }
  expect_failures = [var.regions]
}

run "a_range_that_two_regions_share_is_refused" {
  command = plan
  variables {
    regions = {
      europe-west4 = { zone = "europe-west4-a", nodes = "10.0.1.0/24", pods = "10.16.0.0/16", services = "10.32.0.0/20", proxies = "10.1.1.0/24", maintenance_days = ["MO", "WE"] }
      us-east5     = { zone = "us-east5-b", nodes = "10.0.2.0/24", pods = "10.16.0.0/16", services = "10.32.16.0/20", proxies = "10.1.2.0/24", maintenance_days = ["TU", "TH"] }
    }
  }
  expect_failures = [var.regions]
}

run "too_few_hours_of_maintenance_are_refused" {
  command = plan
  variables { maintenance = { start = "02:00", hours = 5 } }
  expect_failures = [var.regions]
}

run "a_window_beyond_midnight_is_refused" {
  command = plan
  variables { maintenance = { start = "18:00", hours = 8 } }
  expect_failures = [var.maintenance]
}

run "a_config_region_without_a_cluster_is_refused" {
  command = plan
  variables { config_region = "asia-east1" }
  expect_failures = [var.config_region]
}

run "a_slice_that_the_chart_lacks_is_refused" {
  command = plan
  variables { slice = "v6e:3x3" }
  expect_failures = [var.slice]
}

run "claims_of_several_hosts_are_refused" {
  command = plan
  variables {
    slice       = "v6e:4x4"
    slice_chips = "claim"
  }
  expect_failures = [var.slice_chips]
}

run "a_reservation_without_a_name_is_refused" {
  command = plan
  variables { capacity = "reservation" }
  expect_failures = [var.reservations]
}

run "a_region_without_a_reservation_of_its_own_is_refused" {
  command = plan
  variables {
    capacity     = "reservation"
    reservations = { europe-west4 = "mine" }
  }
  expect_failures = [var.reservations]
}

run "a_reservation_that_would_not_be_used_is_refused" {
  command = plan
  variables { reservations = { europe-west4 = "mine" } }
  expect_failures = [var.reservations]
}

run "each_region_may_have_its_reservation" {
  command = plan
  variables {
    capacity     = "reservation"
    reservations = { europe-west4 = "mine", us-east5 = "ours" }
  }

  assert {
    condition     = output.summary.quota == "not compared: only that of v6e on demand can be read"
    error_message = "The summary says ${output.summary.quota}."
  }
}

run "one_region_is_enough_where_prompts_stay" {
  command = plan
  variables {
    residency  = "region"
    chip_price = {}
    regions = {
      europe-west4 = { zone = "europe-west4-a", nodes = "10.0.1.0/24", pods = "10.16.0.0/16", services = "10.32.0.0/20", proxies = "10.1.1.0/24", maintenance_days = ["MO", "TU"] }
    }
  }

  assert {
    condition     = keys(output.gateway_values) == ["europe-west4"]
    error_message = "The gateway is installed in ${jsonencode(keys(output.gateway_values))}."
  }
}

run "by_default_every_regions_proxies_reach_every_server" {
  command = plan

  assert {
    condition     = yamldecode(output.helm_values.us-east5).networkPolicy.proxyRanges == ["10.1.1.0/24", "10.1.2.0/24"]
    error_message = "The values are ${output.helm_values.us-east5}"
  }
  assert {
    condition     = keys(output.gateway_values) == ["europe-west4"]
    error_message = "The gateway is installed in ${jsonencode(keys(output.gateway_values))}."
  }
}

run "where_prompts_stay_each_region_has_its_own_gateway_and_proxies" {
  command = plan
  variables { residency = "region" }

  assert {
    condition     = yamldecode(output.helm_values.us-east5).networkPolicy.proxyRanges == ["10.1.2.0/24"]
    error_message = "The values are ${output.helm_values.us-east5}"
  }
  assert {
    condition     = yamldecode(output.gateway_values.us-east5) == { regions = ["us-east5"], residency = "region", gke = { addressPrefix = "antipode-" } }
    error_message = "The values are ${output.gateway_values.us-east5}"
  }
}

run "another_residency_is_refused" {
  command = plan
  variables { residency = "country" }
  expect_failures = [var.residency]
}

run "another_channel_is_refused" {
  command = plan
  variables { channel = "FAST" }
  expect_failures = [var.channel]
}
