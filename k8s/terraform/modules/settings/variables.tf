variable "name" { type = string }

variable "bucket" { type = string }

variable "residency" {
  type = string

  validation {
    condition     = contains(["any", "region"], var.residency)
    error_message = "residency is ${var.residency}; use any or region."
  }
}

variable "regions" {
  type = map(object({
    zone             = string
    nodes            = string
    pods             = string
    services         = string
    proxies          = string
    maintenance_days = set(string)
  }))

  validation {
    condition     = length(var.regions) >= (var.residency == "region" ? 1 : 2)
    error_message = "regions has ${length(var.regions)} of the two regions or more that a gateway across regions needs; add regions, or set residency to region."
  }
  validation {
    condition     = alltrue([for name, region in var.regions : startswith(region.zone, "${name}-")])
    error_message = "A zone lies outside of its region: ${join(", ", [for name, region in var.regions : "${region.zone} of ${name}" if !startswith(region.zone, "${name}-")])}."
  }
  validation {
    condition = alltrue(flatten([for region in values(var.regions) :
    [for day in region.maintenance_days : contains(["MO", "TU", "WE", "TH", "FR", "SA", "SU"], day)]]))
    error_message = "maintenance_days has a day that is none of MO, TU, WE, TH, FR, SA and SU."
  }
  validation {
    condition = (length(flatten([for region in values(var.regions) : tolist(region.maintenance_days)])) ==
    length(distinct(flatten([for region in values(var.regions) : tolist(region.maintenance_days)]))))
    error_message = "Two regions share a day of maintenance, so GKE could upgrade both at once; give each day to one region."
  }
  validation {
    condition = alltrue([for region in values(var.regions) :
    4 * length(region.maintenance_days) * var.maintenance.hours >= 48])
    error_message = "A region has less than 48 hours of maintenance in 32 days, which GKE refuses; add days, or raise maintenance.hours."
  }
  validation {
    condition = (5 * length(var.regions) == length(distinct(flatten([for region in values(var.regions) :
    [region.zone, region.nodes, region.pods, region.services, region.proxies]]))))
    error_message = "Two ranges, or the zones of two regions, are the same; each region needs its own."
  }
}

variable "config_region" {
  type = string

  validation {
    condition     = contains(keys(var.regions), var.config_region)
    error_message = "config_region is ${var.config_region}, which is not one of the regions; use one of ${join(", ", keys(var.regions))}."
  }
}

variable "maintenance" {
  type = object({ start = string, hours = number })

  validation {
    condition = (can(regex("^[0-2][0-9]:[0-5][0-9]$", var.maintenance.start)) && var.maintenance.hours >= 4 &&
    try(tonumber(substr(var.maintenance.start, 0, 2)), 24) + var.maintenance.hours < 24)
    error_message = "maintenance begins at ${var.maintenance.start} and lasts ${var.maintenance.hours} hours; it must last 4 or more, and end on the day it begins."
  }
}

variable "channel" {
  type = string

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED"], var.channel)
    error_message = "release_channel is ${var.channel}; use RAPID, REGULAR, STABLE or EXTENDED."
  }
}

variable "slice" {
  type = string

  validation {
    condition     = contains(keys(local.slices), var.slice)
    error_message = "slice is ${var.slice}; use one of ${join(", ", keys(local.slices))}."
  }
}

variable "slice_chips" {
  type = string

  validation {
    condition     = contains(["devicePlugin", "claim"], var.slice_chips)
    error_message = "slice_chips is ${var.slice_chips}; use devicePlugin or claim."
  }
  validation {
    condition     = var.slice_chips != "claim" || try(local.slices[var.slice].hosts, 1) == 1
    error_message = "slice_chips is claim, but ${var.slice} has several hosts; use devicePlugin."
  }
}

variable "replicas" {
  type = number

  validation {
    condition     = var.replicas >= 0 && floor(var.replicas) == var.replicas
    error_message = "replicas is ${var.replicas}; use a whole number, 0 or more."
  }
}

variable "capacity" {
  type = string

  validation {
    condition     = contains(["onDemand", "spot", "reservation"], var.capacity)
    error_message = "capacity is ${var.capacity}; use onDemand, spot or reservation."
  }
}

variable "reservations" {
  type = map(string)

  validation {
    condition     = join(" ", [for region, name in var.reservations : region if name != ""]) == (var.capacity == "reservation" ? join(" ", keys(var.regions)) : "")
    error_message = "capacity is ${var.capacity} and reservations names ${jsonencode(var.reservations)}; with capacity reservation name one for each of the regions, otherwise none."
  }
}

variable "chip_price" { type = map(number) }
