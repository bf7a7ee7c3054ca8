#!/usr/bin/env bash
# Makes everything that the charts need: network, two clusters with TPU nodes on DRANET, the fleet and
# its gateway, the buckets and the right to read them.
#
#   fleet.sh plan [-f FILE]   print every command, in order; call nothing, change nothing
#   fleet.sh up   [-f FILE]   look, then create what is missing; a second run creates nothing
#   fleet.sh down [-f FILE]   delete everything again, in a safe order; the buckets stay
#
# FILE is by default the settings.env next to this script. The script needs Bash 4.4, gcloud with its
# component beta, kubectl and gke-gcloud-auth-plugin, logged in. `down` deletes the network only if `up`
# made it. `down` also switches fleet ingress and multi-cluster services off for the whole project.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
settings=${here}/settings.env

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2 && exit 2; }
warn() { echo "fleet: $*" >&2; }
stop() { warn "${@:2}" && exit "$1"; } # CODE WORDS...

mode=${1:-}
[[ ${mode} == plan || ${mode} == up || ${mode} == down ]] || usage
shift
while getopts f: option; do
  [[ ${option} == f ]] || exit 2
  settings=${OPTARG}
done
# A FILE without -f is refused; otherwise the script would silently use its own settings.env.
[[ ${OPTIND} -gt $# ]] || usage
[[ -r ${settings} ]] || stop 2 "the settings file ${settings} cannot be read"
# shellcheck source=k8s/fleet/settings.env
source "${settings}"
: "${CAPACITY:=}" "${LEADER_WORKER_SET_MANIFEST:=}" "${INFERENCE_OBJECTIVE_CRD:=}"
# How long to wait for Google's resources, how often to check, and how long load balancers take to go.
: "${WAIT_SECONDS:=900}" "${RETRY_SECONDS:=30}" "${GATEWAY_SECONDS:=60}"

# Checks all settings before anything else: a missing one would later be an empty argument.
check_settings() {
  local name region names=(PROJECT BUCKET NETWORK REGIONS CONFIG_REGION CLUSTER_VERSION
    RELEASE_CHANNEL NODE_MACHINE_TYPE MACHINE_TYPE TOPOLOGY CHIPS_PER_REPLICA HOSTS_PER_REPLICA
    REPLICAS SLICE_CHIPS NAMESPACE SERVICE_ACCOUNT)
  for region in ${REGIONS:-}; do
    names+=("ZONE_${region//-/_}" "NODES_${region//-/_}" "PROXIES_${region//-/_}")
  done
  for name in "${names[@]}"; do
    [[ -n ${!name:-} ]] || stop 2 "${name} is not set in ${settings}"
  done
  [[ ${SLICE_CHIPS} == devicePlugin || ${SLICE_CHIPS} == claim ]] ||
    stop 2 "SLICE_CHIPS is ${SLICE_CHIPS}; it must be devicePlugin or claim"
  [[ " ${REGIONS} " == *" ${CONFIG_REGION} "* ]] ||
    stop 2 "CONFIG_REGION is ${CONFIG_REGION}, which is not one of REGIONS"
  [[ ${MACHINE_TYPE} =~ -([0-9]+)t$ ]] || stop 2 "MACHINE_TYPE is ${MACHINE_TYPE}; it must end in its number of chips, as in -4t"
  [[ $((${TOPOLOGY//x/*})) -eq ${CHIPS_PER_REPLICA} &&
    $((HOSTS_PER_REPLICA * BASH_REMATCH[1])) -eq ${CHIPS_PER_REPLICA} ]] ||
    stop 2 "TOPOLOGY ${TOPOLOGY}, CHIPS_PER_REPLICA ${CHIPS_PER_REPLICA} and HOSTS_PER_REPLICA" \
      "${HOSTS_PER_REPLICA} of ${MACHINE_TYPE} are not the same number of chips"
  [[ ${HOSTS_PER_REPLICA} -eq 1 || -n ${LEADER_WORKER_SET_MANIFEST} || ${mode} == down ]] ||
    stop 2 "a slice of ${HOSTS_PER_REPLICA} hosts needs LeaderWorkerSet, which GKE does not install;" \
      "set LEADER_WORKER_SET_MANIFEST in ${settings} to the manifest of a LeaderWorkerSet release"
}

# Finds what would stop the script half-way, before anything is made or paid for.
preflight() {
  local tool
  for tool in gcloud kubectl gke-gcloud-auth-plugin; do
    command -v "${tool}" >/dev/null || stop 1 "${tool} is not installed"
  done
  # The output of a look is captured, so nobody would see gcloud's question in it.
  export CLOUDSDK_CORE_DISABLE_PROMPTS=1
  [[ ${mode} == down || $(gcloud beta container node-pools create --help) == *accelerator-network-profile* ]] ||
    stop 1 "this gcloud has no --accelerator-network-profile; run gcloud components update" \
      "or gcloud components install beta"
  # The names of Google's own accounts contain the project's number.
  number=$(gcloud projects describe "${PROJECT}" --format='value(projectNumber)')
  # This message counts only about our project, not about another one such as the billing project.
  absent+="|has not been used in project (${number}|${PROJECT}) "
  said=$(mktemp)
  trap 'rm -f "${said}"' EXIT
}

# Functions that look and functions that act.

# Prints a command and, except in a plan, runs it. `cloud` is printed as the gcloud command that it stands for.
run() {
  [[ $1 != cloud ]] || set -- gcloud "${@:2}" --project="${PROJECT}"
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ ${mode} == plan ]] || "$@"
}

# Messages of gcloud and kubectl that a resource does not exist, or that its API was never enabled.
absent="code=404|was not found|not found: 404|NAT .* not found|NOT_FOUND|\(NotFound\)"
absent+="|Feature for project .* is not enabled"
absent+="|doesn't have a resource type"

# look COMMAND...: whether the resource exists; `found` gets the command's output. In a plan nothing
# exists. Any other failure ends the script: without a login every resource would seem to be missing.
look() {
  found=
  [[ ${mode} != plan ]] || return 1
  if ! found=$("$@" 2>"${said}"); then
    found=
    grep -qE "${absent}" "${said}" || stop 1 "$(<"${said}")"
  fi
  [[ -n ${found} ]]
}

gone() { ! look "$@"; }

# Tries three times: a resource's users may take a while to go.
delete() {
  local tries=3
  until run "$@"; do
    ((--tries)) || return 1
    sleep "${RETRY_SECONDS}"
  done
}

# await WHAT PATTERN COMMAND...: looks until the command's output matches the pattern.
await() {
  local what=$1 pattern=$2 end=$((SECONDS + WAIT_SECONDS))
  # shellcheck disable=SC2053 # A pattern is not quoted.
  until [[ ${mode} == plan ]] || { look "${@:3}" && [[ ${found} == ${pattern} ]]; }; do
    ((SECONDS < end)) || stop 1 "${what} was not there within ${WAIT_SECONDS} seconds; run this script again"
    warn "waiting for ${what}"
    sleep "${RETRY_SECONDS}"
  done
}

# must_run KIND delete NAME FLAG...: stops unless the resource that `look` found is usable.
must_run() {
  case ${found} in
    '' | RUNNING | RECONCILING) ;;
    PROVISIONING) stop 1 "$3 is still being made; run this script again when it is done" ;;
    *) stop 1 "$3 is in state ${found}; repair it, or delete it and run this script again:" \
      "gcloud container $* --project=${PROJECT}" ;;
  esac
}

# of NAME REGION: the region's value of a setting that every region has.
of() { local name=$1_${2//-/_} && echo "${!name}"; }

cloud() { gcloud "$@" --project="${PROJECT}"; }
context_of() { echo "gke_${PROJECT}_$1_antipode-$1"; }
credentials() { run cloud container clusters get-credentials "antipode-$1" --location="$1"; }

# Functions that make the resources, in their order.

apis=(artifactregistry autoscaling cloudquotas cloudresourcemanager compute connectgateway container
  dns gkehub iam iamcredentials multiclusteringress multiclusterservicediscovery networkservices
  storage trafficdirector)

enable_apis() {
  local api enabled='' missing=()
  [[ ${mode} == plan ]] || enabled=$(cloud services list --enabled --format='value(config.name)')
  for api in "${apis[@]/%/.googleapis.com}"; do
    grep -qxF "${api}" <<<"${enabled}" || missing+=("${api}")
  done
  [[ ${#missing[@]} -eq 0 ]] || run cloud services enable "${missing[@]}"
}

# Each region needs quota for its replicas' chips, unless a reservation provides the chips.
check_quota() {
  [[ ${mode} == up ]] || return 0
  case "${MACHINE_TYPE} ${CAPACITY}" in
    *--spot* | *--flex-start*) warn "the separate quota of spot and flex-start chips is not checked" ;;
    *--reservation[\ =]*) ;;
    ct6e-*) check_family CT6E $((CHIPS_PER_REPLICA * REPLICAS)) ;;
    *) warn "the TPU quota of ${MACHINE_TYPE} is not checked" ;;
  esac
}

# check_family FAMILY CHIPS: stops at a quota that is too small, but not at one that cannot be read.
check_family() {
  local region limits limit info=dimensionsInfos
  limits=$(cloud beta quotas info describe TPUS-PER-TPU-FAMILY-per-project-region \
    --service=compute.googleapis.com --flatten='dimensionsInfos[]' \
    --format="csv[no-heading](${info}.dimensions.region,${info}.dimensions.tpu_family,${info}.details.value)") || true
  for region in ${REGIONS}; do
    [[ $'\n'${limits} =~ $'\n'"${region},$1,"(-?[0-9]+) ]] ||
      warn "no TPU quota is listed for ${region}, so it is not checked"
    limit=${BASH_REMATCH[1]:--1}
    if [[ ${limit} -ge 0 && ${limit} -lt $2 ]]; then # -1 is no limit.
      stop 1 "${region} allows ${limit} TPU chips, but $2 are needed; ask for quota," \
        "lower REPLICAS, or set CAPACITY to a reservation"
    fi
  done
}

# The network's description, by which `down` recognizes a network that `up` made.
made_here=made-by-fleet.sh

make_network() {
  local region
  look cloud compute networks describe "${NETWORK}" --format='value(name,description)' ||
    run cloud compute networks create "${NETWORK}" --subnet-mode=custom --mtu=8896 \
    --description="${made_here}"
  [[ -z ${found} || ${found} == *"${made_here}" ]] ||
    stop 1 "the network ${NETWORK} exists, but its description is not ${made_here}; set NETWORK to another name"
  for region in ${REGIONS}; do
    look cloud compute networks subnets describe "nodes-${region}" --region="${region}" ||
      run cloud compute networks subnets create "nodes-${region}" --network="${NETWORK}" \
      --region="${region}" --range="$(of NODES "${region}")" --enable-private-ip-google-access
    look cloud compute networks subnets describe "proxies-${region}" --region="${region}" ||
      run cloud compute networks subnets create "proxies-${region}" --network="${NETWORK}" --region="${region}" \
      --range="$(of PROXIES "${region}")" --purpose=GLOBAL_MANAGED_PROXY --role=ACTIVE
    look cloud compute addresses describe "antipode-${region}" --region="${region}" ||
      run cloud compute addresses create "antipode-${region}" --region="${region}" \
      --subnet="nodes-${region}" --purpose=SHARED_LOADBALANCER_VIP
    look cloud compute routers describe "nat-${region}" --region="${region}" ||
      run cloud compute routers create "nat-${region}" --network="${NETWORK}" --region="${region}"
    look cloud compute routers nats describe nat --router="nat-${region}" --region="${region}" ||
      run cloud compute routers nats create nat --router="nat-${region}" --region="${region}" \
      --auto-allocate-nat-external-ips --nat-all-subnet-ip-ranges
  done
}

# Health checks come from Google's ranges, requests from the proxies' ranges.
make_firewall() {
  local region proxies
  proxies=$(for region in ${REGIONS}; do of PROXIES "${region}"; done)
  look cloud compute firewall-rules describe antipode-health-checks ||
    run cloud compute firewall-rules create antipode-health-checks --network="${NETWORK}" \
    --allow=tcp:8000,tcp:9000,tcp:9003 --source-ranges=130.211.0.0/22,35.191.0.0/16
  look cloud compute firewall-rules describe antipode-proxies ||
    run cloud compute firewall-rules create antipode-proxies --network="${NETWORK}" \
    --allow=tcp:8000,tcp:9000,tcp:9002,tcp:9003 --source-ranges="${proxies//$'\n'/,}"
}

# The nodes pull images, and write the metrics that the gateway and the autoscaler read.
make_node_roles() {
  local role
  for role in artifactregistry.reader autoscaling.metricsWriter container.defaultNodeServiceAccount \
    monitoring.metricWriter; do
    bind_project "serviceAccount:${number}-compute@developer.gserviceaccount.com" "roles/${role}"
  done
}

# bind_project MEMBER ROLE
bind_project() {
  look granted "$1" "$2" cloud projects get-iam-policy "${PROJECT}" ||
    run cloud projects add-iam-policy-binding "${PROJECT}" --member="$1" --role="$2" \
    --condition=None --format=none
}

# granted MEMBER ROLE COMMAND...: prints the binding if the command prints a policy that has it.
granted() {
  local policy
  policy=$("${@:3}" --flatten='bindings[].members' \
    --format='csv[no-heading](bindings.members,bindings.role)') || return
  grep -xF "$1,$2" <<<"${policy}" || true
}

# DRANET needs Dataplane V2, which only the creation of a cluster can choose. An addon that is not listed
# is off. Private nodes reach the internet through the network's NAT.
make_clusters() {
  local region
  for region in ${REGIONS}; do
    look cloud container clusters describe "antipode-${region}" --location="${region}" --format='value(status)' ||
      run cloud container clusters create "antipode-${region}" --location="${region}" \
      --release-channel="${RELEASE_CHANNEL}" --cluster-version="${CLUSTER_VERSION}" \
      --network="${NETWORK}" --subnetwork="nodes-${region}" --enable-ip-alias \
      --enable-private-nodes --enable-dataplane-v2 --gateway-api=standard \
      --workload-pool="${PROJECT}.svc.id.goog" --enable-managed-prometheus \
      --addons=GcsFuseCsiDriver,HttpLoadBalancing,HorizontalPodAutoscaling \
      --hpa-profile=performance --machine-type="${NODE_MACHINE_TYPE}" --num-nodes=1 \
      --fleet-project="${PROJECT}"
    must_run clusters delete "antipode-${region}" --location="${region}"
    make_tpu_nodes "${region}"
  done
}

# Slices of one host are nodes of one pool. The pool has no spare node, so an upgrade takes a node away
# first. A slice of several hosts is its own pool.
make_tpu_nodes() { # REGION
  local replica
  if [[ ${HOSTS_PER_REPLICA} -eq 1 ]]; then
    make_pool "$1" tpu "${REPLICAS}" --max-surge-upgrade=0 --max-unavailable-upgrade=1
  else
    for ((replica = 0; replica < REPLICAS; replica++)); do
      make_pool "$1" "tpu-${replica}" "${HOSTS_PER_REPLICA}"
    done
  fi
}

# The network profile must be in one zone. The first node label starts the DRANET driver; the second one switches
# the device plugin of TPUs off, so that a driver offers the chips to claims.
make_pool() { # REGION POOL NODES [FLAG...]
  local place=(--cluster="antipode-$1" --location="$1") capacity nodes
  local labels=cloud.google.com/gke-networking-dra-driver=true
  [[ ${SLICE_CHIPS} != claim ]] || labels+=,cloud.google.com/gke-tpu-dra-driver=true
  read -ra capacity <<<"${CAPACITY}"
  look cloud container node-pools describe "$2" "${place[@]}" --format='value(status,initialNodeCount)' ||
    run cloud beta container node-pools create "$2" "${place[@]}" \
    --node-locations="$(of ZONE "$1")" --machine-type="${MACHINE_TYPE}" \
    --tpu-topology="${TOPOLOGY}" --num-nodes="$3" "${capacity[@]}" "${@:4}" \
    --accelerator-network-profile=auto \
    --node-labels="${labels}" \
    --workload-metadata=GKE_METADATA --scopes=https://www.googleapis.com/auth/cloud-platform
  read -r found nodes <<<"${found}"
  must_run node-pools delete "$2" "${place[@]}"
  [[ ${nodes:-$3} -ge $3 ]] ||
    warn "$3 nodes are needed in $1, but ${nodes} were made; unless someone has resized the pool since, run:" \
      "gcloud container clusters resize antipode-$1 --node-pool=$2 --num-nodes=$3 --location=$1" \
      "--project=${PROJECT}"
}

make_fleet() {
  local agent="serviceAccount:service-${number}@gcp-sa-multiclusteringress.iam.gserviceaccount.com"
  # The membership under which --fleet-project registered the config cluster.
  local member="projects/${PROJECT}/locations/${CONFIG_REGION}/memberships/antipode-${CONFIG_REGION}"
  look cloud container fleet multi-cluster-services describe ||
    run cloud container fleet multi-cluster-services enable
  # Google makes the agent's account on demand, and a role needs an existing account.
  look granted "${agent}" roles/multiclusteringress.serviceAgent cloud projects get-iam-policy "${PROJECT}" ||
    run cloud beta services identity create --service=multiclusteringress.googleapis.com
  bind_project "${agent}" roles/multiclusteringress.serviceAgent
  bind_project "${agent}" roles/container.admin
  bind_project "serviceAccount:${PROJECT}.svc.id.goog[gke-mcs/gke-mcs-importer]" \
    roles/compute.networkViewer
  look cloud container fleet ingress describe \
    --format='value(spec.multiclusteringress.configMembership)' ||
    run cloud container fleet ingress enable --config-membership="${member}"
  # Some answers have the project's number, others its name.
  [[ -z ${found} || ${found#*/locations/} == "${member#*/locations/}" ]] ||
    stop 1 "fleet ingress is on with ${found}; if nobody needs that, run this script again after" \
      "gcloud container fleet ingress update --config-membership=${member} --project=${PROJECT}"
  await 'fleet ingress' OK cloud container fleet ingress describe --format='value(state.state.code)'
}

# The pods may read the buckets, and nothing else.
make_buckets() {
  local principal region bucket
  # Both clusters share the project's identity pool, so the same principal reads in both regions.
  principal="principal://iam.googleapis.com/projects/${number}/locations/global"
  principal+="/workloadIdentityPools/${PROJECT}.svc.id.goog/subject/ns/${NAMESPACE}/sa/${SERVICE_ACCOUNT}"
  for region in ${REGIONS}; do
    bucket=gs://${BUCKET}-${region}
    look cloud storage buckets describe "${bucket}" ||
      run cloud storage buckets create "${bucket}" --location="${region}" --uniform-bucket-level-access
    look granted "${principal}" roles/storage.objectViewer cloud storage buckets get-iam-policy "${bucket}" ||
      run cloud storage buckets add-iam-policy-binding "${bucket}" --member="${principal}" \
      --role=roles/storage.objectViewer --format=none
  done
}

make_cluster_contents() {
  local region context class=gke-l7-cross-regional-internal-managed-mc
  for region in ${REGIONS}; do
    context=$(context_of "${region}")
    credentials "${region}"
    look kubectl --context="${context}" get namespace "${NAMESPACE}" ||
      run kubectl --context="${context}" create namespace "${NAMESPACE}"
    await "the DeviceClass of DRANET in ${region}" '?*' \
      kubectl --context="${context}" get deviceclass netdev.google.com
    install "${context}" leaderworkersets.leaderworkerset.x-k8s.io "${LEADER_WORKER_SET_MANIFEST}"
    install "${context}" inferenceobjectives.llm-d.ai "${INFERENCE_OBJECTIVE_CRD}"
  done
  await "the GatewayClass ${class}" '?*' \
    kubectl --context="$(context_of "${CONFIG_REGION}")" get gatewayclass "${class}"
}

# install CONTEXT CRD MANIFEST: applies the manifest unless it is empty or the CRD exists.
install() {
  [[ -z $3 ]] || look kubectl --context="$1" get crd "$2" ||
    run kubectl --context="$1" apply --server-side --filename="$3"
}

# Functions that delete the resources, in their order.

# The fleet's features go before the clusters; otherwise they leave load balancers behind. The network
# goes last, after the parts that the gateway's controller made in it.
delete_all() {
  local region context alive=()
  for region in ${REGIONS}; do
    # A cluster that did not start, or is being deleted, does not answer kubectl.
    if look cloud container clusters describe "antipode-${region}" --location="${region}" \
      --format='value(status)' && [[ ${found} == RUNNING || ${found} == RECONCILING ]]; then
      credentials "${region}"
      alive+=("${region}")
    fi
  done
  [[ " ${alive[*]} " != *" ${CONFIG_REGION} "* ]] || delete_gateways
  for region in "${alive[@]}"; do
    context=$(context_of "${region}")
    gone kubectl --context="${context}" get namespace "${NAMESPACE}" ||
      delete kubectl --context="${context}" delete namespace "${NAMESPACE}" --timeout=10m
  done
  gone cloud container fleet ingress describe || delete cloud container fleet ingress disable --force
  gone cloud container fleet multi-cluster-services describe ||
    delete cloud container fleet multi-cluster-services disable --force
  for region in ${REGIONS}; do
    gone cloud container clusters describe "antipode-${region}" --location="${region}" ||
      delete cloud container clusters delete "antipode-${region}" --location="${region}"
  done
  delete_network
  echo "fleet: the buckets gs://${BUCKET}-* and the project's role bindings were not deleted"
}

# A controller deletes the load balancer after its Gateway, and the controller ends with the fleet's feature.
delete_gateways() {
  local context kinds=gateways.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io
  kinds+=,healthcheckpolicies.networking.gke.io,gcpbackendpolicies.networking.gke.io
  context=$(context_of "${CONFIG_REGION}")
  look kubectl --context="${context}" get namespace "${NAMESPACE}" || return 0
  delete kubectl --context="${context}" delete "${kinds}" --all --namespace="${NAMESPACE}" --timeout=10m
  sleep "${GATEWAY_SECONDS}"
}

delete_network() {
  local region kind rule rules
  look cloud compute networks describe "${NETWORK}" --format='value(name,description)' || return 0
  if [[ ${found} != *"${made_here}" ]]; then
    warn "the description of the network ${NETWORK} is not ${made_here}; the network and everything in it stay"
    return
  fi
  # Firewall rules of the gateway's controller outlive the gateway.
  rules=$(cloud compute firewall-rules list --filter="network~/${NETWORK}$" --format='value(name)')
  for rule in ${rules}; do
    delete cloud compute firewall-rules delete "${rule}"
  done
  for region in ${REGIONS}; do
    gone cloud compute addresses describe "antipode-${region}" --region="${region}" ||
      delete cloud compute addresses delete "antipode-${region}" --region="${region}" || in_use
    gone cloud compute routers describe "nat-${region}" --region="${region}" ||
      delete cloud compute routers delete "nat-${region}" --region="${region}"
    for kind in proxies nodes; do
      gone cloud compute networks subnets describe "${kind}-${region}" --region="${region}" ||
        delete cloud compute networks subnets delete "${kind}-${region}" --region="${region}" || in_use
    done
  done
  gone cloud compute networks describe "${NETWORK}" ||
    delete cloud compute networks delete "${NETWORK}" || in_use
}

# The gateway's controller may leave resources behind, which keep the network in use.
in_use() {
  stop 1 "something may still use the network; delete what these commands list and run this script again:
  gcloud compute forwarding-rules list --filter='network~/${NETWORK}\$' --project=${PROJECT}
  gcloud compute network-endpoint-groups list --filter='network~/${NETWORK}\$' --project=${PROJECT}"
}

check_settings
number=PROJECT_NUMBER
[[ ${mode} == plan ]] || preflight
if [[ ${mode} == down ]]; then
  delete_all
  exit
fi
enable_apis
check_quota
make_network
make_firewall
make_node_roles
make_clusters
make_fleet
make_buckets
make_cluster_contents
echo "fleet: next, install helm/antipode in each cluster, then helm/antipode-gateway in antipode-${CONFIG_REGION}"
