# The gateway's address in each region and, if it is asked for, one name for all of them.

variable "name" { type = string }

variable "project" { type = string }

variable "network" { type = string }

variable "subnets" {
  description = "The nodes' subnets by region."
  type        = map(string)
}

variable "dns_name" {
  description = "A name with its last dot; empty for none."
  type        = string
}

variable "residency" {
  description = "any or region."
  type        = string
}

variable "port" {
  description = "Where the gateway listens."
  type        = string
}

# The chart's gateway takes the addresses by these names.
resource "google_compute_address" "gateway" {
  for_each = var.subnets

  name         = "${var.name}-${each.key}"
  region       = each.key
  subnetwork   = each.value
  address_type = "INTERNAL"
  purpose      = "SHARED_LOADBALANCER_VIP"
}

resource "google_dns_managed_zone" "gateway" {
  count = var.dns_name == "" ? 0 : 1

  name        = var.name
  dns_name    = var.dns_name
  description = "The addresses of Antipode's gateway"
  visibility  = "private"

  private_visibility_config {
    networks {
      network_url = var.network
    }
  }
}

# Answers with the address of the region nearest to the client. Without a fence, a region whose load balancer fails its
# health check is left out, and the next nearest answers: prompts leave their region.
resource "google_dns_record_set" "gateway" {
  count = var.dns_name == "" ? 0 : 1

  managed_zone = google_dns_managed_zone.gateway[0].name
  name         = var.dns_name
  type         = "A"
  ttl          = 30

  routing_policy {
    enable_geo_fencing = var.residency == "region"

    dynamic "geo" {
      for_each = google_compute_address.gateway
      content {
        location = geo.key

        health_checked_targets {
          internal_load_balancers {
            load_balancer_type = var.residency == "any" ? "globalL7ilb" : "regionalL7ilb"
            region             = var.residency == "any" ? null : geo.key
            ip_address         = geo.value.address
            ip_protocol        = "tcp"
            port               = var.port
            network_url        = var.network
            project            = var.project
          }
        }
      }
    }
  }
}

output "addresses" {
  value = { for region, address in google_compute_address.gateway : region => address.address }
}
