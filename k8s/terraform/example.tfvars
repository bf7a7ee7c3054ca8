# Copy this file to terraform.tfvars and fill in the first block.

project       = "my-project"
bucket        = "my-project-models"
config_region = "europe-west4"

regions = {
  europe-west4 = {
    zone             = "europe-west4-a"
    nodes            = "10.0.1.0/24"
    pods             = "10.16.0.0/16"
    services         = "10.32.0.0/20"
    proxies          = "10.1.1.0/24"
    maintenance_days = ["MO", "WE"]
  }
  us-east5 = {
    zone             = "us-east5-b"
    nodes            = "10.0.2.0/24"
    pods             = "10.17.0.0/16"
    services         = "10.32.16.0/20"
    proxies          = "10.1.2.0/24"
    maintenance_days = ["TU", "TH"]
  }
}
