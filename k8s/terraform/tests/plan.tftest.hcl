# terraform test, with the schema of Google's provider: make terraform. Nothing is asked of Google.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456" }
  }
  mock_data "google_cloud_quotas_quota_info" {
    defaults = {
      dimensions_infos = [
        { dimensions = { region = "europe-west4", tpu_family = "CT6E" }, details = [{ value = "64" }], applicable_locations = [] },
        { dimensions = { region = "us-east5", tpu_family = "CT6E" }, details = [{ value = "-1" }], applicable_locations = [] },
        { dimensions = { region = "asia-east1", tpu_family = "CT6E" }, details = [{ value = "64" }], applicable_locations = [] },
        { dimensions = { region = "us-east5", tpu_family = "CT5LP" }, details = [{ value = "0" }], applicable_locations = [] },
      ]
    }
  }
  mock_resource "google_service_account" {
    defaults = {
      email  = "antipode-nodes@my-project.iam.gserviceaccount.com"
      member = "serviceAccount:antipode-nodes@my-project.iam.gserviceaccount.com"
    }
  }
  mock_resource "google_container_cluster" {
    defaults = {
      fleet = { membership = "//gkehub.googleapis.com/projects/my-project/locations/somewhere/memberships/a-cluster" }
    }
  }
}

variables {
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
}

run "two_regions" {
  assert {
    condition     = keys(module.cluster) == ["europe-west4", "us-east5"]
    error_message = "The clusters are in ${jsonencode(keys(module.cluster))}."
  }
  assert {
    condition     = output.helm_values.us-east5 == module.settings.helm_values.us-east5
    error_message = "The values of us-east5 are ${output.helm_values.us-east5}"
  }
}

run "a_third_region_is_added" {
  variables {
    regions = {
      europe-west4 = { zone = "europe-west4-a", nodes = "10.0.1.0/24", pods = "10.16.0.0/16", services = "10.32.0.0/20", proxies = "10.1.1.0/24", maintenance_days = ["MO", "WE"] }
      us-east5     = { zone = "us-east5-b", nodes = "10.0.2.0/24", pods = "10.17.0.0/16", services = "10.32.16.0/20", proxies = "10.1.2.0/24", maintenance_days = ["TU", "TH"] }
      asia-east1   = { zone = "asia-east1-c", nodes = "10.0.3.0/24", pods = "10.18.0.0/16", services = "10.32.32.0/20", proxies = "10.1.3.0/24", maintenance_days = ["FR", "SU"] }
    }
  }
  assert {
    condition     = length(keys(module.cluster)) == 3
    error_message = "The clusters are in ${jsonencode(keys(module.cluster))}."
  }
}

run "and_removed_again" {
  assert {
    condition     = length(keys(module.cluster)) == 2
    error_message = "The clusters are in ${jsonencode(keys(module.cluster))}."
  }
}

run "slices_of_several_hosts_on_spot_nodes_with_a_name" {
  variables {
    slice    = "v6e:4x4"
    replicas = 2
    capacity = "spot"
    dns_name = "antipode.internal."
  }
  assert {
    condition     = module.settings.tpu.pools == tomap({ tpu-0 = 4, tpu-1 = 4 })
    error_message = "The pools are ${jsonencode(module.settings.tpu.pools)}."
  }
}

run "prompts_stay_in_their_region" {
  command = plan
  variables {
    residency = "region"
    dns_name  = "antipode.internal."
  }
}

run "a_reservation_of_chips_without_dranet" {
  command = plan
  variables {
    slice        = "v5e:2x4"
    capacity     = "reservation"
    reservations = { europe-west4 = "mine", us-east5 = "ours" }
  }
}

run "a_region_whose_quota_is_not_told_is_said" {
  command = plan
  variables {
    config_region = "asia-northeast1"
    regions = {
      asia-northeast1 = { zone = "asia-northeast1-b", nodes = "10.0.3.0/24", pods = "10.18.0.0/16", services = "10.32.32.0/20", proxies = "10.1.3.0/24", maintenance_days = ["FR", "SU"] }
      us-east5        = { zone = "us-east5-b", nodes = "10.0.2.0/24", pods = "10.17.0.0/16", services = "10.32.16.0/20", proxies = "10.1.2.0/24", maintenance_days = ["TU", "TH"] }
    }
  }

  expect_failures = [check.quota]
}

run "another_name_and_a_gateway_with_tls" {
  command = plan
  variables {
    name        = "search"
    gateway_tls = true
    dns_name    = "search.internal."
  }
  assert {
    condition     = strcontains(output.fleet, "PREFIX=search\n")
    error_message = "The fleet is ${output.fleet}"
  }
}

run "a_long_name_is_refused" {
  command = plan
  variables { name = "a-name-of-21-letters-" }

  expect_failures = [var.name]
}

run "a_quota_that_is_too_small_is_said" {
  command = plan
  variables { replicas = 17 }

  expect_failures = [check.quota]
}

run "a_name_without_its_last_dot_is_refused" {
  command = plan
  variables { dns_name = "antipode.internal" }

  expect_failures = [var.dns_name]
}
