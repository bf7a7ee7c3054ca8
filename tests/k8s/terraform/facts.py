"""What the charts and GKE need of the network, the clusters and the rest: a table, and its check.

Each row names a module, a resource and the value of one of its arguments. `breaks` is a harmful
change of the module's text, which the row must see. Terraform itself would apply every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.k8s.terraform.configuration import Json, Module, Texts, modules, values


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """`path` is dotted; `file` is the one that `breaks` changes, below the module's folder."""

    module: str
    resource: str
    path: str
    value: Json
    breaks: tuple[str, str]
    why: str
    file: str = "main.tf"

    def __str__(self) -> str:
        return f"{self.module}: {self.resource} {self.path}"

    def broken(self, of: Texts) -> Texts:
        """The configuration with the harmful change."""
        name = f"modules/{self.module}/{self.file}"
        before, after = self.breaks
        assert before in of[name], f"{name} does not have {before!r}"
        return {**of, name: of[name].replace(before, after)}


def violations(of: Texts, facts: tuple[Fact, ...]) -> list[str]:
    """A sentence for each fact that the configuration does not have."""
    found = modules(of)
    return [f"{fact}: {fact.why}" for fact in facts if not _holds(fact, found)]


def _holds(fact: Fact, found: dict[str, Module]) -> bool:
    resource = found[f"modules/{fact.module}"].blocks["resource"].get(fact.resource, {})
    return [value for path, value in values(resource) if path == fact.path] == [fact.value]


_NETWORK, _CLUSTER = "google_compute_network.this", "google_container_cluster.this"
_POOL, _BUCKET = "google_container_node_pool.tpu", "google_storage_bucket.models"

FACTS = (
    Fact(
        module="network",
        resource=_NETWORK,
        path="mtu",
        value=8896,
        breaks=("mtu = 8896", "mtu = 1460"),
        why="interfaces of DRANET have jumbo frames",
    ),
    Fact(
        module="network",
        resource=_NETWORK,
        path="auto_create_subnetworks",
        value=False,
        breaks=("auto_create_subnetworks = false", "auto_create_subnetworks = true"),
        why="subnets in every region of the world would take the ranges",
    ),
    Fact(
        module="network",
        resource="google_compute_subnetwork.proxies",
        path="purpose",
        value='${var.residency == "any" ? "GLOBAL_MANAGED_PROXY" : "REGIONAL_MANAGED_PROXY"}',
        breaks=('"GLOBAL_MANAGED_PROXY"', '"PRIVATE"'),
        why="a gateway across regions takes no proxies of a single region",
    ),
    Fact(
        module="network",
        resource="google_compute_subnetwork.nodes",
        path="private_ip_google_access",
        value=True,
        breaks=("private_ip_google_access = true", "private_ip_google_access = false"),
        why="private nodes read the buckets by it",
    ),
    Fact(
        module="network",
        resource="google_compute_firewall.proxies",
        path="allow.ports",
        value=["8000", "9000", "9002", "9003"],
        breaks=('"8000", "9000", "9002", "9003"', '"8000", "9000"'),
        why="the load balancer asks the endpoint pickers on 9002",
    ),
    Fact(
        module="network",
        resource="google_compute_firewall.health_checks",
        path="allow.ports",
        value=["8000", "9000", "9003"],
        breaks=('["8000", "9000", "9003"]', '["9000"]'),
        why="the load balancer finds no pod healthy, and its pickers neither",
    ),
    Fact(
        module="network",
        resource="google_compute_firewall.health_checks",
        path="source_ranges",
        value=["130.211.0.0/22", "35.191.0.0/16"],
        breaks=('"35.191.0.0/16"', '"35.0.0.0/16"'),
        why="Google's health checks come from these ranges",
    ),
    Fact(
        module="network",
        resource="google_compute_firewall.groups",
        path="allow.ports",
        value="${var.group_ports}",
        breaks=("ports    = var.group_ports", 'ports    = ["9200"]'),
        why="libtpu of the hosts of a slice talks on 8471 and 8476",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="datapath_provider",
        value="ADVANCED_DATAPATH",
        breaks=('"ADVANCED_DATAPATH"', '"LEGACY_DATAPATH"'),
        why="DRANET needs Dataplane V2, and nothing changes it later",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="fleet.project",
        value="${var.project}",
        breaks=("  fleet {\n    project = var.project\n  }\n", ""),
        why="a cluster outside of the fleet exports nothing to the gateway",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="gateway_api_config.channel",
        value="CHANNEL_STANDARD",
        breaks=("CHANNEL_STANDARD", "CHANNEL_DISABLED"),
        why="the cluster has no kind Gateway",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="workload_identity_config.workload_pool",
        value="${var.project}.svc.id.goog",
        breaks=("workload_identity_config {", "identity_service_config {"),
        why="pods have no identity that may read the buckets",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="addons_config.gcs_fuse_csi_driver_config.enabled",
        value=True,
        breaks=(
            "gcs_fuse_csi_driver_config {\n      enabled = true",
            "gcs_fuse_csi_driver_config {\n      enabled = false",
        ),
        why="pods mount the buckets by it",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="private_cluster_config.enable_private_nodes",
        value=True,
        breaks=("enable_private_nodes = true", "enable_private_nodes = false"),
        why="nodes would have addresses in the internet",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="master_authorized_networks_config.gcp_public_cidrs_access_enabled",
        value=False,
        breaks=(
            "gcp_public_cidrs_access_enabled = false",
            "gcp_public_cidrs_access_enabled = true",
        ),
        why="every machine of Google Cloud could reach the control plane",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="master_authorized_networks_config.cidr_blocks.cidr_block",
        value="${cidr_blocks.value}",
        breaks=("cidr_block   = cidr_blocks.value", 'cidr_block   = "0.0.0.0/0"'),
        why="everyone could reach the control plane",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="maintenance_policy.recurring_window.recurrence",
        value="${var.window.recurrence}",
        breaks=("recurrence = var.window.recurrence", 'recurrence = "FREQ=DAILY"'),
        why="GKE could upgrade all regions at once",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="release_channel.channel",
        value="${var.channel}",
        breaks=("channel = var.channel", 'channel = "RAPID"'),
        why="RAPID is not subject to a service level agreement",
    ),
    Fact(
        module="cluster",
        resource=_CLUSTER,
        path="deletion_protection",
        value="${var.deletion_protection}",
        breaks=("deletion_protection = var.deletion_protection", "deletion_protection = false"),
        why="a region taken out of the map by mistake would lose its cluster",
    ),
    Fact(
        module="cluster",
        file="tpu.tf",
        resource=_POOL,
        path="network_config.accelerator_network_profile",
        value="auto",
        breaks=('accelerator_network_profile = "auto"', 'pod_range = "pods"'),
        why="nodes have no interfaces for DRANET",
    ),
    Fact(
        module="cluster",
        file="tpu.tf",
        resource=_POOL,
        path="node_config.labels",
        value="${var.tpu.labels}",
        breaks=("    labels          = var.tpu.labels\n", ""),
        why="the driver of DRANET does not start without its label",
    ),
    Fact(
        module="cluster",
        file="tpu.tf",
        resource=_POOL,
        path="node_locations",
        value=["${var.zone}"],
        breaks=("node_locations = [var.zone]", "node_locations = []"),
        why="a network profile must be in one zone",
    ),
    Fact(
        module="cluster",
        file="tpu.tf",
        resource=_POOL,
        path="placement_policy.tpu_topology",
        value="${var.tpu.topology}",
        breaks=("tpu_topology = var.tpu.topology", 'tpu_topology = "1x1"'),
        why="pods select nodes by their topology",
    ),
    Fact(
        module="cluster",
        file="tpu.tf",
        resource=_POOL,
        path="upgrade_settings.max_surge",
        value=0,
        breaks=("max_surge       = 0", "max_surge       = 1"),
        why="there is no spare TPU node, so the upgrade would wait for ever",
    ),
    Fact(
        module="cluster",
        file="tpu.tf",
        resource=_POOL,
        path="node_config.service_account",
        value="${var.node_account}",
        breaks=("    service_account = var.node_account\n", ""),
        why="nodes would run as the project's default account",
    ),
    Fact(
        module="cluster",
        resource="google_container_node_pool.system",
        path="node_config.service_account",
        value="${var.node_account}",
        breaks=(
            "var.system_machine_type\n    service_account = var.node_account\n",
            "var.system_machine_type\n",
        ),
        why="nodes would run as the project's default account",
    ),
    Fact(
        module="cluster",
        file="tpu.tf",
        resource=_POOL,
        path="node_config.kubelet_config.shutdown_grace_period_seconds",
        value="${kubelet_config.value.seconds}",
        breaks=("= kubelet_config.value.seconds\n", "= 30\n"),
        why="a spot node would cut streams after 15 seconds",
    ),
    Fact(
        module="storage",
        resource=_BUCKET,
        path="public_access_prevention",
        value="enforced",
        breaks=('"enforced"', '"inherited"'),
        why="weights could be made public",
    ),
    Fact(
        module="storage",
        resource=_BUCKET,
        path="uniform_bucket_level_access",
        value=True,
        breaks=("uniform_bucket_level_access = true", "uniform_bucket_level_access = false"),
        why="a grant to a principal needs it",
    ),
    Fact(
        module="storage",
        resource=_BUCKET,
        path="deletion_policy",
        value="ABANDON",
        breaks=('"ABANDON"', '"DELETE"'),
        why="weights would go with their region",
    ),
    Fact(
        module="storage",
        resource="google_storage_bucket_iam_member.pods",
        path="role",
        value="roles/storage.objectViewer",
        breaks=("roles/storage.objectViewer", "roles/storage.admin"),
        why="pods read, and nothing else",
    ),
    Fact(
        module="gateway",
        resource="google_compute_address.gateway",
        path="purpose",
        value="SHARED_LOADBALANCER_VIP",
        breaks=("SHARED_LOADBALANCER_VIP", "GCE_ENDPOINT"),
        why="the gateway's listeners share an address",
    ),
    Fact(
        module="gateway",
        resource="google_dns_record_set.gateway",
        path="routing_policy.geo.health_checked_targets.internal_load_balancers.load_balancer_type",
        value='${var.residency == "any" ? "globalL7ilb" : "regionalL7ilb"}',
        breaks=('"globalL7ilb"', '"regionalL4ilb"'),
        why="the name would still answer with a region whose load balancer is gone",
    ),
    Fact(
        module="gateway",
        resource="google_dns_record_set.gateway",
        path="routing_policy.enable_geo_fencing",
        value='${var.residency == "region"}',
        breaks=('enable_geo_fencing = var.residency == "region"', "enable_geo_fencing = true"),
        why="a client of a lost region would get no address of another one",
    ),
    Fact(
        module="fleet",
        resource="google_gke_hub_feature.gateway",
        path="spec.multiclusteringress.config_membership",
        value="${var.config_membership}",
        breaks=(
            "config_membership = var.config_membership",
            'config_membership = ""',
        ),
        why="the gateway's controller reads the config cluster",
    ),
)
