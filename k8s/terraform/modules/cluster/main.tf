# A region's cluster, with its nodes without TPUs.

resource "google_container_cluster" "this" {
  name                = var.name
  location            = var.region
  network             = var.network
  subnetwork          = var.subnet
  networking_mode     = "VPC_NATIVE"
  deletion_protection = var.deletion_protection

  # DRANET needs Dataplane V2, which only the creation of a cluster can choose.
  datapath_provider = "ADVANCED_DATAPATH"

  min_master_version = var.min_version
  release_channel {
    channel = var.channel
  }
  maintenance_policy {
    recurring_window {
      start_time = var.window.start
      end_time   = var.window.end
      recurrence = var.window.recurrence
    }
  }

  # The pools below take its place.
  remove_default_node_pool = true
  initial_node_count       = 1
  node_config {
    service_account = var.node_account
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
  }

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  # Nodes have no address in the internet. The control plane is reached by its DNS name, where IAM decides, and by IP
  # address only from the network itself and from the authorized networks.
  private_cluster_config {
    enable_private_nodes = true
  }
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }
  }
  master_authorized_networks_config {
    gcp_public_cidrs_access_enabled = false

    dynamic "cidr_blocks" {
      for_each = var.authorized_networks
      content {
        display_name = cidr_blocks.key
        cidr_block   = cidr_blocks.value
      }
    }
  }

  fleet {
    project = var.project
  }
  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }
  workload_identity_config {
    workload_pool = "${var.project}.svc.id.goog"
  }
  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS"]

    managed_prometheus {
      enabled = true
    }
  }
  pod_autoscaling {
    hpa_profile = "PERFORMANCE"
  }
  addons_config {
    gcs_fuse_csi_driver_config {
      enabled = true
    }
    http_load_balancing {
      disabled = false
    }
    horizontal_pod_autoscaling {
      disabled = false
    }
  }

  lifecycle {
    # It belongs to the default pool, which is gone.
    ignore_changes = [node_config]
  }
}

resource "google_container_node_pool" "system" {
  name       = "system"
  cluster    = google_container_cluster.this.id
  node_count = 1

  node_config {
    machine_type    = var.system_machine_type
    service_account = var.node_account
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }
}

output "membership" {
  description = "The cluster's membership of the fleet: projects/.../locations/.../memberships/..."
  value       = trimprefix(google_container_cluster.this.fleet[0].membership, "//gkehub.googleapis.com/")

  # A cluster without nodes runs no controller.
  depends_on = [google_container_node_pool.system]
}
