# The project's APIs and the account of the nodes.

variable "name" { type = string }

variable "project" { type = string }

# Read by a plan, so the API cloudresourcemanager must be on before the first one.
data "google_project" "this" {
  project_id = var.project
}

resource "google_project_service" "this" {
  for_each = toset([
    "artifactregistry", "autoscaling", "cloudquotas", "cloudresourcemanager", "compute", "connectgateway", "container",
    "dns", "gkehub", "iam", "iamcredentials", "monitoring", "multiclusteringress", "multiclusterservicediscovery",
    "networkservices", "storage", "trafficdirector",
  ])

  project = var.project
  service = "${each.key}.googleapis.com"
  # Others of the project may use them.
  disable_on_destroy = false
}

# The nodes do not run as the project's default account, which may often do much more.
resource "google_service_account" "nodes" {
  project      = var.project
  account_id   = "${var.name}-nodes"
  display_name = "The nodes of Antipode's clusters"

  depends_on = [google_project_service.this]
}

# The nodes pull images, and write the metrics that the gateway and the autoscaler read.
resource "google_project_iam_member" "nodes" {
  for_each = toset([
    "roles/artifactregistry.reader", "roles/autoscaling.metricsWriter", "roles/container.defaultNodeServiceAccount",
    "roles/monitoring.metricWriter",
  ])

  project = var.project
  role    = each.key
  member  = google_service_account.nodes.member
}

output "number" {
  value = data.google_project.this.number
}

output "node_account" {
  description = "The nodes' account. Its roles come with it: a node without them does not start."
  value       = google_service_account.nodes.email

  depends_on = [google_project_iam_member.nodes]
}
