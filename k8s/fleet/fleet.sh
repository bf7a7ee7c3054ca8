#!/usr/bin/env bash
# Everything before Helm: network, two clusters with TPU nodes on DRANET, the fleet and its gateway,
# the buckets and who may read them.
#
#   fleet.sh plan [-f FILE]   print every command, in order; call nothing, change nothing
#   fleet.sh up   [-f FILE]   look, then create what is missing; a second run creates nothing
#   fleet.sh down [-f FILE]   delete it again, in the order that works; the buckets stay
#
# FILE is settings.env beside this script unless named. It needs gcloud and kubectl, logged in.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
settings=${here}/settings.env
mode=${1:-}
[[ $# -gt 0 ]] && shift
while getopts f: option; do
  case ${option} in
    f) settings=${OPTARG} ;;
    *) exit 2 ;;
  esac
done
case ${mode} in
  plan | up | down) ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
if [[ ! -r ${settings} ]]; then
  echo "fleet: the settings file ${settings} cannot be read" >&2
  exit 2
fi
# shellcheck source=k8s/fleet/settings.env
source "${settings}"
if [[ ${HOSTS_PER_REPLICA:=1} -gt 1 && -z ${LEADER_WORKER_SET_MANIFEST} && ${mode} != down ]]; then
  echo "fleet: a slice of ${HOSTS_PER_REPLICA} hosts is a LeaderWorkerSet, which GKE does not bring; set" \
    "LEADER_WORKER_SET_MANIFEST in ${settings} to the manifest of one of its releases" >&2
  exit 2
fi

# Looking and doing.

# Runs a command, or in a plan only prints it.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ ${mode} == plan ]] || "$@"
}

# split LOOK... -- DO...: into the arrays `look` and `act`.
split() {
  look=()
  while [[ $1 != -- ]]; do
    look+=("$1")
    shift
  done
  shift
  act=("$@")
}

# ensure LOOK... -- CREATE...: creates what looking does not find. What is there, looking prints.
ensure() {
  local look act
  split "$@"
  if [[ ${mode} == plan || -z $("${look[@]}" 2>/dev/null) ]]; then
    run "${act[@]}"
  fi
}

# remove LOOK... -- DELETE...: deletes what looking finds.
remove() {
  local look act
  split "$@"
  [[ -z $("${look[@]}" 2>/dev/null) ]] || run "${act[@]}"
}

# of NAME REGION: a setting that each region has.
of() {
  local name=$1_${2//-/_}
  if [[ -z ${!name:-} ]]; then
    echo "fleet: ${name} is not set in ${settings}" >&2
    exit 2
  fi
  echo "${!name}"
}

cloud() { gcloud "$@" --project="${PROJECT}"; }
# A function cannot be printed as the command it is: the plan shows gcloud itself.
g() { run gcloud "$@" --project="${PROJECT}" --quiet; }
cluster_of() { echo "antipode-$1"; }
context_of() { echo "gke_${PROJECT}_$1_$(cluster_of "$1")"; }

# The project's number is in the names of Google's own accounts; a plan does not ask for it.
project_number() {
  if [[ ${mode} == plan ]]; then
    echo PROJECT_NUMBER
  else
    cloud projects describe "${PROJECT}" --format='value(projectNumber)'
  fi
}

# What there is, in the order it is made.

apis=(compute container cloudresourcemanager iam iamcredentials storage autoscaling connectgateway
  dns gkehub multiclusterservicediscovery multiclusteringress networkservices trafficdirector)

enable_apis() {
  local api enabled='' missing=()
  [[ ${mode} == plan ]] || enabled=$(cloud services list --enabled --format='value(config.name)')
  for api in "${apis[@]/%/.googleapis.com}"; do
    grep -qxF "${api}" <<<"${enabled}" || missing+=("${api}")
  done
  [[ ${#missing[@]} -eq 0 ]] || g services enable "${missing[@]}"
}

# Each region needs the chips of its replicas as quota, unless a reservation or spot nodes give them.
check_quota() {
  [[ ${mode} == up && -z ${CAPACITY} ]] || return 0
  local region wanted=$((CHIPS_PER_REPLICA * REPLICAS)) limit
  for region in ${REGIONS}; do
    limit=$(cloud compute regions describe "${region}" \
      --flatten=quotas --filter='quotas.metric~TPU_LITE_PODSLICE_V6|TPUS_PER_TPU_FAMILY' \
      --format='value(quotas.limit)' | sort -n | tail -1)
    limit=${limit%.*}
    if [[ -n ${limit} && ${limit} -lt ${wanted} ]]; then
      echo "fleet: ${region} allows ${limit} TPU chips and ${wanted} are wanted; ask for quota," \
        "lower REPLICAS, or set CAPACITY to a reservation" >&2
      exit 1
    fi
    [[ -n ${limit} ]] || echo "fleet: no TPU quota is listed for ${region}; not checked" >&2
  done
}

make_network() {
  ensure cloud compute networks describe "${NETWORK}" -- \
    gcloud compute networks create "${NETWORK}" --subnet-mode=custom --mtu=8896 --project="${PROJECT}"
  local region
  for region in ${REGIONS}; do
    ensure cloud compute networks subnets describe "nodes-${region}" --region="${region}" -- \
      gcloud compute networks subnets create "nodes-${region}" --network="${NETWORK}" \
      --region="${region}" --range="$(of NODES "${region}")" --enable-private-ip-google-access \
      --project="${PROJECT}"
    ensure cloud compute networks subnets describe "proxies-${region}" --region="${region}" -- \
      gcloud compute networks subnets create "proxies-${region}" --network="${NETWORK}" \
      --region="${region}" --range="$(of PROXIES "${region}")" --purpose=GLOBAL_MANAGED_PROXY \
      --role=ACTIVE --project="${PROJECT}"
    ensure cloud compute addresses describe "antipode-${region}" --region="${region}" -- \
      gcloud compute addresses create "antipode-${region}" --region="${region}" \
      --subnet="nodes-${region}" --purpose=SHARED_LOADBALANCER_VIP --project="${PROJECT}"
    ensure cloud compute routers describe "nat-${region}" --region="${region}" -- \
      gcloud compute routers create "nat-${region}" --network="${NETWORK}" --region="${region}" \
      --project="${PROJECT}"
    ensure cloud compute routers nats describe nat --router="nat-${region}" --region="${region}" -- \
      gcloud compute routers nats create nat --router="nat-${region}" --region="${region}" \
      --auto-allocate-nat-external-ips --nat-all-subnet-ip-ranges --project="${PROJECT}"
  done
}

# Health checks come from Google's ranges, requests from the proxies'.
make_firewall() {
  local region proxies=()
  for region in ${REGIONS}; do
    proxies+=("$(of PROXIES "${region}")")
  done
  ensure cloud compute firewall-rules describe antipode-health-checks -- \
    gcloud compute firewall-rules create antipode-health-checks --network="${NETWORK}" \
    --allow=tcp:8000,tcp:9000 --source-ranges=130.211.0.0/22,35.191.0.0/16 --project="${PROJECT}"
  ensure cloud compute firewall-rules describe antipode-proxies -- \
    gcloud compute firewall-rules create antipode-proxies --network="${NETWORK}" \
    --allow=tcp:8000,tcp:9000,tcp:9002,tcp:9003 --source-ranges="$(IFS=,; echo "${proxies[*]}")" \
    --project="${PROJECT}"
}

# Dataplane V2 can be chosen only when a cluster is created, and DRANET needs it.
make_clusters() {
  local region cluster
  for region in ${REGIONS}; do
    cluster=$(cluster_of "${region}")
    ensure cloud container clusters describe "${cluster}" --location="${region}" -- \
      gcloud container clusters create "${cluster}" --location="${region}" \
      --release-channel="${RELEASE_CHANNEL}" --cluster-version="${CLUSTER_VERSION}" \
      --network="${NETWORK}" --subnetwork="nodes-${region}" --enable-ip-alias \
      --enable-dataplane-v2 --gateway-api=standard --workload-pool="${PROJECT}.svc.id.goog" \
      --addons=GcsFuseCsiDriver,HttpLoadBalancing --enable-managed-prometheus \
      --hpa-profile=performance --num-nodes=1 --fleet-project="${PROJECT}" --project="${PROJECT}"
    make_tpu_nodes "${region}" "${cluster}"
  done
}

# Slices of one host are nodes of one pool; a slice of several hosts is a pool of its own.
make_tpu_nodes() { # REGION CLUSTER
  local replica
  if [[ ${HOSTS_PER_REPLICA} -eq 1 ]]; then
    make_pool "$1" "$2" tpu "${REPLICAS}"
    return
  fi
  for ((replica = 0; replica < REPLICAS; replica++)); do
    make_pool "$1" "$2" "tpu-${replica}" "${HOSTS_PER_REPLICA}"
  done
}

# The network profile must be of one zone, and the label is what starts the driver.
make_pool() { # REGION CLUSTER POOL NODES
  local capacity
  read -ra capacity <<<"${CAPACITY}"
  ensure cloud container node-pools describe "$3" --cluster="$2" --location="$1" -- \
    gcloud beta container node-pools create "$3" --cluster="$2" --location="$1" \
    --node-locations="$(of ZONE "$1")" --machine-type="${MACHINE_TYPE}" \
    --tpu-topology="${TOPOLOGY}" --num-nodes="$4" "${capacity[@]}" \
    --accelerator-network-profile=auto \
    --node-labels=cloud.google.com/gke-networking-dra-driver=true \
    --workload-metadata=GKE_METADATA \
    --scopes=https://www.googleapis.com/auth/cloud-platform --project="${PROJECT}"
}

membership() { # The path of the config cluster's membership, where --fleet-project put it.
  echo "projects/${PROJECT}/locations/${CONFIG_REGION}/memberships/$(cluster_of "${CONFIG_REGION}")"
}

make_fleet() {
  local number
  number=$(project_number)
  ensure cloud container fleet multi-cluster-services describe -- \
    gcloud container fleet multi-cluster-services enable --project="${PROJECT}"
  bind_project "serviceAccount:service-${number}@gcp-sa-multiclusteringress.iam.gserviceaccount.com" \
    roles/container.admin
  bind_project "serviceAccount:${PROJECT}.svc.id.goog[gke-mcs/gke-mcs-importer]" \
    roles/compute.networkViewer
  ensure cloud container fleet ingress describe -- \
    gcloud container fleet ingress enable --config-membership="$(membership)" --project="${PROJECT}"
}

# bind_project MEMBER ROLE
bind_project() {
  ensure gcloud projects get-iam-policy "${PROJECT}" --flatten='bindings[].members' \
    --filter="bindings.members=$1 AND bindings.role=$2" --format='value(bindings.role)' -- \
    gcloud projects add-iam-policy-binding "${PROJECT}" --member="$1" --role="$2" \
    --condition=None --format=none
}

# The nodes write what the gateway and the autoscaler read; the pods read the buckets, nothing else.
make_access() {
  local number principal region bucket
  number=$(project_number)
  bind_project "serviceAccount:${number}-compute@developer.gserviceaccount.com" \
    roles/autoscaling.metricsWriter
  bind_project "serviceAccount:${number}-compute@developer.gserviceaccount.com" \
    roles/container.defaultNodeServiceAccount
  # Both clusters share the project's identity pool, so the same principal reads in both regions.
  principal="principal://iam.googleapis.com/projects/${number}/locations/global"
  principal+="/workloadIdentityPools/${PROJECT}.svc.id.goog/subject/ns/${NAMESPACE}/sa/${SERVICE_ACCOUNT}"
  for region in ${REGIONS}; do
    bucket=gs://${BUCKET}-${region}
    ensure cloud storage buckets describe "${bucket}" -- \
      gcloud storage buckets create "${bucket}" --location="${region}" \
      --uniform-bucket-level-access --project="${PROJECT}"
    ensure gcloud storage buckets get-iam-policy "${bucket}" --flatten='bindings[].members' \
      --filter="bindings.members=${principal} AND bindings.role=roles/storage.objectViewer" \
      --format='value(bindings.role)' -- \
      gcloud storage buckets add-iam-policy-binding "${bucket}" --member="${principal}" \
      --role=roles/storage.objectViewer --format=none
  done
}

make_cluster_contents() {
  local region context
  for region in ${REGIONS}; do
    context=$(context_of "${region}")
    g container clusters get-credentials "$(cluster_of "${region}")" --location="${region}"
    ensure kubectl --context="${context}" get namespace "${NAMESPACE}" -- \
      kubectl --context="${context}" create namespace "${NAMESPACE}"
    run kubectl --context="${context}" get deviceclass netdev.google.com
    install "${context}" leaderworkersets.leaderworkerset.x-k8s.io "${LEADER_WORKER_SET_MANIFEST}"
    install "${context}" inferenceobjectives.llm-d.ai "${INFERENCE_OBJECTIVE_CRD}"
  done
}

# install CONTEXT CRD MANIFEST: what GKE does not bring, where a manifest is named.
install() {
  [[ -n $3 ]] || return 0
  ensure kubectl --context="$1" get crd "$2" -- \
    kubectl --context="$1" apply --server-side --filename="$3"
}

# And in the order it goes.

# The fleet's features before the clusters, or they leave load balancers behind; what the gateway's
# controller made in the network before the network.
delete_all() {
  local region cluster context
  context=$(context_of "${CONFIG_REGION}")
  if kubectl --context="${context}" get namespace "${NAMESPACE}" >/dev/null 2>&1; then
    # The load balancer goes after its Gateway, by a controller that ends with the fleet's feature.
    run kubectl --context="${context}" delete gateways.gateway.networking.k8s.io --all \
      --namespace="${NAMESPACE}" --wait
    sleep "${GATEWAY_SECONDS:-60}"
  fi
  for region in ${REGIONS}; do
    remove kubectl --context="$(context_of "${region}")" get namespace "${NAMESPACE}" -- \
      kubectl --context="$(context_of "${region}")" delete namespace "${NAMESPACE}" --wait
  done
  remove cloud container fleet ingress describe -- \
    gcloud container fleet ingress disable --force --quiet --project="${PROJECT}"
  remove cloud container fleet multi-cluster-services describe -- \
    gcloud container fleet multi-cluster-services disable --force --quiet --project="${PROJECT}"
  for region in ${REGIONS}; do
    cluster=$(cluster_of "${region}")
    remove cloud container clusters describe "${cluster}" --location="${region}" -- \
      gcloud container clusters delete "${cluster}" --location="${region}" --quiet --project="${PROJECT}"
  done
  delete_network
  echo "fleet: the buckets gs://${BUCKET}-* and the project's role bindings are left as they are"
}

delete_network() {
  local region rule
  # Rules that the gateway's controller made survive their gateway.
  for rule in $(cloud compute firewall-rules list --filter="network~/${NETWORK}$" --format='value(name)'); do
    g compute firewall-rules delete "${rule}"
  done
  for region in ${REGIONS}; do
    remove cloud compute addresses describe "antipode-${region}" --region="${region}" -- \
      gcloud compute addresses delete "antipode-${region}" --region="${region}" --quiet --project="${PROJECT}"
    remove cloud compute routers describe "nat-${region}" --region="${region}" -- \
      gcloud compute routers delete "nat-${region}" --region="${region}" --quiet --project="${PROJECT}"
    for rule in proxies nodes; do
      remove cloud compute networks subnets describe "${rule}-${region}" --region="${region}" -- \
        gcloud compute networks subnets delete "${rule}-${region}" --region="${region}" --quiet \
        --project="${PROJECT}"
    done
  done
  remove cloud compute networks describe "${NETWORK}" -- \
    gcloud compute networks delete "${NETWORK}" --quiet --project="${PROJECT}"
}

if [[ ${mode} == down ]]; then
  delete_all
  exit
fi
enable_apis
check_quota
make_network
make_firewall
make_clusters
make_fleet
make_access
make_cluster_contents
echo "fleet: next, helm/antipode in each cluster, then helm/antipode-gateway in antipode-${CONFIG_REGION}"
