# A region's TPU nodes, with the network interfaces that DRANET gives to pods.

resource "google_container_node_pool" "tpu" {
  for_each = var.tpu.pools

  name       = each.key
  cluster    = google_container_cluster.this.id
  node_count = each.value
  # The network profile must be in one zone.
  node_locations = [var.zone]

  # Of a slice of one host the machine says the topology.
  dynamic "placement_policy" {
    for_each = var.tpu.hosts == 1 ? [] : [true]
    content {
      type         = "COMPACT"
      tpu_topology = var.tpu.topology
    }
  }

  dynamic "network_config" {
    for_each = var.tpu.dranet ? [true] : []
    content {
      accelerator_network_profile = "auto"
    }
  }

  # The pool has no spare node, so an upgrade takes a node away first. GKE upgrades a slice of several hosts as one.
  dynamic "upgrade_settings" {
    for_each = var.tpu.hosts == 1 ? [true] : []
    content {
      max_surge       = 0
      max_unavailable = 1
    }
  }

  node_config {
    machine_type    = var.tpu.machine_type
    spot            = var.tpu.spot != null
    labels          = var.tpu.labels
    service_account = var.node_account
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    # Without it a spot node gives pods 15 seconds to end, too few for a drain.
    dynamic "kubelet_config" {
      for_each = var.tpu.spot[*]
      content {
        shutdown_grace_period_seconds               = kubelet_config.value.seconds
        shutdown_grace_period_critical_pods_seconds = kubelet_config.value.seconds_of_system
      }
    }

    dynamic "reservation_affinity" {
      for_each = var.reservation == "" ? [] : [true]
      content {
        consume_reservation_type = "SPECIFIC_RESERVATION"
        key                      = "compute.googleapis.com/reservation-name"
        values                   = [var.reservation]
      }
    }
  }

  lifecycle {
    # GKE adds labels of its own. A change of ours needs a new pool.
    ignore_changes = [node_config[0].labels]
  }
}
