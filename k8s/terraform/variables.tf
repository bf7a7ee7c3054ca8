# modules/settings checks what must fit together: a wrong value is refused before anything is made.

variable "project" {
  description = "The project's ID."
  type        = string
}

variable "bucket" {
  description = "The weights are in one bucket per region, <bucket>-<region>."
  type        = string
}

variable "name" {
  description = <<-EOT
    What the names of all that is made begin with: clusters <name>-<region>, addresses, firewall rules, the nodes'
    account. A fleet has one config cluster, so a project has one of these configurations.
  EOT
  type        = string
  default     = "antipode"

  validation {
    # The account <name>-nodes has at most 30 characters, and a cluster <name>-<region> at most 40.
    condition     = can(regex("^[a-z][-a-z0-9]{1,14}[a-z0-9]$", var.name))
    error_message = "name is ${var.name}; use 3 to 16 lowercase letters, digits and -, beginning with a letter and not ending in -."
  }
}

variable "network" {
  description = "The name of the network that is made. Empty: name."
  type        = string
  default     = ""
}

variable "regions" {
  description = <<-EOT
    The regions. Each has the zone of its TPU nodes, the ranges of its nodes, pods, services and proxies, and the days
    of the week (MO to SU) on which GKE may upgrade its cluster. No two regions share a day. To remove a region, set
    deletion_protection to false, apply, and then take it out of the map.
  EOT
  type = map(object({
    zone                = string
    nodes               = string
    pods                = string
    services            = string
    proxies             = string
    maintenance_days    = set(string)
    deletion_protection = optional(bool, true)
  }))
}

variable "config_region" {
  description = "The region of the config cluster, which also holds the Gateway and its routes."
  type        = string
}

variable "release_channel" {
  description = <<-EOT
    REGULAR has the versions that DRANET and the multi-cluster Inference Gateway need, and gets fixes after the clusters
    of RAPID ran with them. RAPID is not subject to GKE's service level agreement.
  EOT
  type        = string
  default     = "REGULAR"
}

variable "cluster_version" {
  description = "The least version of the control planes. DRANET needs 1.34.1-gke.1829001."
  type        = string
  default     = "1.35"
}

variable "maintenance" {
  description = "When the window of a region's maintenance days begins (UTC, HH:MM), and how many hours it lasts."
  type        = object({ start = string, hours = number })
  default     = { start = "02:00", hours = 8 }
}

variable "authorized_networks" {
  description = <<-EOT
    Ranges by name that may reach the control planes' IP addresses, such as {office = "203.0.113.0/24"}. Everyone else
    reaches a control plane by its DNS name, where IAM decides.
  EOT
  type        = map(string)
  default     = {}
}

variable "node_machine_type" {
  description = "The machine type of the nodes without TPUs, one per zone. Each of the two endpoint pickers requests two CPUs and 4 GiB."
  type        = string
  default     = "e2-standard-4"
}

variable "slice" {
  description = "The TPU slice of one replica, as in helm/antipode."
  type        = string
  default     = "v6e:2x2"
}

variable "slice_chips" {
  description = "How the chips reach the pods, as sliceChips of helm/antipode: devicePlugin or claim."
  type        = string
  default     = "devicePlugin"
}

variable "replicas" {
  description = "The replicas per region."
  type        = number
  default     = 1
}

variable "capacity" {
  description = "Where the TPU nodes come from: onDemand, spot or reservation."
  type        = string
  default     = "onDemand"
}

variable "reservations" {
  description = "With capacity reservation: the name of each region's reservation, such as {us-east5 = \"chips\"}. A reservation is in one zone."
  type        = map(string)
  default     = {}
}

variable "chip_price" {
  description = "The price of a chip-hour by region, such as {us-east5 = 2.7}, for the summary. Look it up: prices change."
  type        = map(number)
  default     = {}
}

variable "namespace" {
  description = "The namespace of the charts."
  type        = string
  default     = "antipode"
}

variable "service_account" {
  description = "The Kubernetes service account of the server, which may read the buckets. The chart names it after the release."
  type        = string
  default     = "antipode"
}

variable "residency" {
  description = "any: a region that is full or down passes its requests on. region: prompts never leave their region."
  type        = string
  default     = "any"
}

variable "gateway_tls" {
  description = "Whether helm/antipode-gateway has tls.enabled. The health check of dns_name then asks port 443."
  type        = bool
  default     = false
}

variable "dns_name" {
  description = "A name in the network for both regions' addresses, such as antipode.internal. with its last dot. Empty: none."
  type        = string
  default     = ""

  validation {
    condition     = var.dns_name == "" || can(regex("^([a-z0-9-]+\\.){2,}$", var.dns_name))
    error_message = "dns_name is ${var.dns_name}; use a name of two parts or more with its last dot, such as antipode.internal."
  }
}
