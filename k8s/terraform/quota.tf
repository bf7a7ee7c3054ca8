# A quota of chips that is too small, or that cannot be read, is a warning of the plan.
check "quota" {
  data "google_cloud_quotas_quota_info" "chips" {
    parent   = "projects/${var.project}"
    service  = "compute.googleapis.com"
    quota_id = "TPUS-PER-TPU-FAMILY-per-project-region"
  }

  assert {
    condition = alltrue([
      for region, chips in module.settings.quota : anytrue([
        for info in data.google_cloud_quotas_quota_info.chips.dimensions_infos :
        # -1 is no limit. Without a region it is that of every region.
        tonumber(info.details[0].value) == -1 || tonumber(info.details[0].value) >= chips
        if lookup(info.dimensions, "tpu_family", "") == "CT6E" && lookup(info.dimensions, "region", region) == region
      ])
    ])
    error_message = "A region has a quota of less chips than it needs (${jsonencode(module.settings.quota)}); ask for quota, lower replicas, or use a reservation."
  }
}
