# The fleet's gateway and its Services of several clusters. The clusters register themselves.

variable "project" { type = string }

variable "project_number" { type = string }

variable "config_membership" {
  description = "The membership of the config cluster."
  type        = string
}

resource "google_gke_hub_feature" "services" {
  name     = "multiclusterservicediscovery"
  location = "global"
}

resource "google_gke_hub_feature" "gateway" {
  name     = "multiclusteringress"
  location = "global"

  spec {
    multiclusteringress {
      config_membership = var.config_membership
    }
  }
}

# Google makes the agent's account when the feature is switched on.
resource "google_project_iam_member" "gateway" {
  for_each = toset(["roles/multiclusteringress.serviceAgent", "roles/container.admin"])

  project = var.project
  role    = each.key
  member  = "serviceAccount:service-${var.project_number}@gcp-sa-multiclusteringress.iam.gserviceaccount.com"

  depends_on = [google_gke_hub_feature.gateway]
}

resource "google_project_iam_member" "services" {
  project = var.project
  role    = "roles/compute.networkViewer"
  member  = "serviceAccount:${var.project}.svc.id.goog[gke-mcs/gke-mcs-importer]"

  depends_on = [google_gke_hub_feature.services]
}
