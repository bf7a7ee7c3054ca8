output "summary" {
  description = "What apply makes and what its chips cost. A plan shows it before anything is made."
  value       = module.settings.summary
}

output "helm_values" {
  description = "Each region's values of helm/antipode, in YAML. Image and model are yours to add."
  value       = module.settings.helm_values
}

output "gateway_values" {
  description = "The values of helm/antipode-gateway, in YAML, for each cluster that it is installed in."
  value       = module.settings.gateway_values
}

output "addresses" {
  description = "The gateway's address in each region."
  value       = module.gateway.addresses
}

output "node_account" {
  description = "The account of the nodes, for computeClass.serviceAccount of helm/antipode."
  value       = module.project.node_account
}

output "fleet" {
  description = "What fleet.sh reads."
  value = join("\n", [
    "PROJECT=${var.project}",
    "PREFIX=${var.name}",
    "REGIONS=\"${join(" ", keys(var.regions))}\"",
    "CONFIG_REGION=${var.config_region}",
    "NAMESPACE=${var.namespace}",
    "RESIDENCY=${var.residency}",
    "HOSTS_PER_REPLICA=${module.settings.tpu.hosts}",
    "DRANET=${module.settings.tpu.dranet}",
    "",
  ])
}
