# Everything outside of the clusters that the charts need. fleet.sh does what is inside.

module "settings" {
  source = "./modules/settings"

  name          = var.name
  bucket        = var.bucket
  residency     = var.residency
  regions       = var.regions
  config_region = var.config_region
  maintenance   = var.maintenance
  channel       = var.release_channel
  slice         = var.slice
  slice_chips   = var.slice_chips
  replicas      = var.replicas
  capacity      = var.capacity
  reservations  = var.reservations
  chip_price    = var.chip_price
}

module "project" {
  source = "./modules/project"

  name    = var.name
  project = var.project
}

module "network" {
  source = "./modules/network"

  name        = var.name
  network     = coalesce(var.network, var.name)
  regions     = var.regions
  group_ports = module.settings.group_ports
  residency   = var.residency

  depends_on = [module.project]
}

module "cluster" {
  source   = "./modules/cluster"
  for_each = var.regions

  name                = "${var.name}-${each.key}"
  project             = var.project
  region              = each.key
  zone                = each.value.zone
  network             = module.network.id
  subnet              = module.network.subnets[each.key]
  node_account        = module.project.node_account
  channel             = var.release_channel
  min_version         = var.cluster_version
  window              = module.settings.windows[each.key]
  authorized_networks = var.authorized_networks
  system_machine_type = var.node_machine_type
  tpu                 = module.settings.tpu
  reservation         = lookup(var.reservations, each.key, "")
  deletion_protection = each.value.deletion_protection
}

module "fleet" {
  source = "./modules/fleet"

  project           = var.project
  project_number    = module.project.number
  config_membership = module.cluster[var.config_region].membership

  depends_on = [module.cluster]
}

module "storage" {
  source = "./modules/storage"

  project         = var.project
  project_number  = module.project.number
  buckets         = module.settings.buckets
  namespace       = var.namespace
  service_account = var.service_account

  # The first cluster makes the identity pool that the grants name.
  depends_on = [module.cluster]
}

module "gateway" {
  source = "./modules/gateway"

  name      = var.name
  project   = var.project
  network   = module.network.id
  subnets   = module.network.subnets
  dns_name  = var.dns_name
  residency = var.residency
  port      = var.gateway_tls ? "443" : "80"
}

module "monitoring" {
  source = "./modules/monitoring"

  project = var.project

  depends_on = [module.project]
}
