# The dashboard of Cloud Monitoring. It shows what the chart's dashboard for Grafana shows.

variable "project" { type = string }

resource "google_monitoring_dashboard" "this" {
  project        = var.project
  dashboard_json = file("${path.module}/dashboard.json")
}
