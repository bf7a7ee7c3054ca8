# One network for all clusters: the gateway reaches pods of one network only.

variable "name" { type = string }

variable "network" {
  description = "The name of the network."
  type        = string
}

variable "regions" {
  type = map(object({ nodes = string, pods = string, services = string, proxies = string }))
}

variable "group_ports" {
  description = "The ports between the hosts of a slice; empty for slices of one host."
  type        = list(string)
}

variable "residency" {
  description = "any or region."
  type        = string
}

resource "google_compute_network" "this" {
  name                    = var.network
  auto_create_subnetworks = false
  # Jumbo frames, as on the interfaces of DRANET.
  mtu = 8896
}

resource "google_compute_subnetwork" "nodes" {
  for_each = var.regions

  name                     = "nodes-${each.key}"
  network                  = google_compute_network.this.id
  region                   = each.key
  ip_cidr_range            = each.value.nodes
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = each.value.pods
  }
  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = each.value.services
  }
}

# For the proxies of the load balancer. A load balancer across regions has other proxies than one of a single region.
resource "google_compute_subnetwork" "proxies" {
  for_each = var.regions

  name          = "proxies-${each.key}"
  network       = google_compute_network.this.id
  region        = each.key
  ip_cidr_range = each.value.proxies
  purpose       = var.residency == "any" ? "GLOBAL_MANAGED_PROXY" : "REGIONAL_MANAGED_PROXY"
  role          = "ACTIVE"
}

# Private nodes reach the internet through it, for images.
resource "google_compute_router" "this" {
  for_each = var.regions

  name    = "nat-${each.key}"
  network = google_compute_network.this.id
  region  = each.key
}

resource "google_compute_router_nat" "this" {
  for_each = var.regions

  name                               = "nat"
  router                             = google_compute_router.this[each.key].name
  region                             = each.key
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}

# Health checks come from Google's ranges: to the server and to the endpoint pickers.
resource "google_compute_firewall" "health_checks" {
  name          = "${var.name}-health-checks"
  network       = google_compute_network.this.name
  source_ranges = ["130.211.0.0/22", "35.191.0.0/16"]

  allow {
    protocol = "tcp"
    ports    = ["8000", "9000", "9003"]
  }
}

# Requests come from the proxies' ranges, and the proxies ask the endpoint pickers.
resource "google_compute_firewall" "proxies" {
  name          = "${var.name}-proxies"
  network       = google_compute_network.this.name
  source_ranges = [for region in values(var.regions) : region.proxies]

  allow {
    protocol = "tcp"
    ports    = ["8000", "9000", "9002", "9003"]
  }
}

# The hosts of a slice are pods of one region.
resource "google_compute_firewall" "groups" {
  for_each = length(var.group_ports) > 0 ? var.regions : {}

  name               = "${var.name}-groups-${each.key}"
  network            = google_compute_network.this.name
  source_ranges      = [each.value.pods]
  destination_ranges = [each.value.pods]

  allow {
    protocol = "tcp"
    ports    = var.group_ports
  }
}

output "id" {
  value = google_compute_network.this.id
}

output "subnets" {
  description = "The nodes' subnet of each region. The proxies' subnet comes with it: a gateway needs both."
  value       = { for region, subnet in google_compute_subnetwork.nodes : region => subnet.id }

  depends_on = [google_compute_subnetwork.proxies]
}
