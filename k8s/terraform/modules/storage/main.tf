# A bucket per region for the weights. The pods may read it, and nothing else.

variable "project" { type = string }

variable "project_number" { type = string }

variable "buckets" {
  description = "The buckets' names by region."
  type        = map(string)
}

variable "namespace" { type = string }

variable "service_account" { type = string }

resource "google_storage_bucket" "models" {
  for_each = var.buckets

  name                        = each.value
  location                    = each.key
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # Weights stay when a region or everything goes.
  deletion_policy = "ABANDON"
}

# The clusters share the project's identity pool, so the same principal reads in every region.
resource "google_storage_bucket_iam_member" "pods" {
  for_each = google_storage_bucket.models

  bucket = each.value.name
  role   = "roles/storage.objectViewer"
  member = "principal://iam.googleapis.com/projects/${var.project_number}/locations/global/workloadIdentityPools/${var.project}.svc.id.goog/subject/ns/${var.namespace}/sa/${var.service_account}"
}
