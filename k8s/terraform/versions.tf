terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source = "hashicorp/google"
      # 8.0 is the first version with the deletion policy of buckets.
      version = ">= 8.0, < 9.0"
    }
  }
}

provider "google" {
  project = var.project
}
