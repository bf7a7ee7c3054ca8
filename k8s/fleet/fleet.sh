#!/usr/bin/env bash
# Does inside the clusters what Terraform (k8s/terraform) cannot: it waits for what GKE installs, and empties
# clusters before Terraform deletes them.
#
#   fleet.sh plan  [-f FILE] [-m MANIFEST]...   print every command of open, in order; call nothing
#   fleet.sh open  [-f FILE] [-m MANIFEST]...   after `terraform apply`: prepare the clusters; a second run changes nothing
#   fleet.sh close [-f FILE] [-y] [REGION]      before `terraform destroy`, or before one REGION goes: delete the charts' objects
#
# FILE has the output fleet of Terraform; without -f the script asks Terraform for it. -m applies a manifest in every
# cluster, such as a release of LeaderWorkerSet. `close` asks before it deletes; -y answers. The script needs Bash
# 4.4, gcloud, kubectl and gke-gcloud-auth-plugin, logged in.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# How long to wait for Google's resources, how often to check, and how long load balancers take to go.
: "${WAIT_SECONDS:=900}" "${RETRY_SECONDS:=30}" "${GATEWAY_SECONDS:=60}"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2 && exit 2; }
warn() { echo "fleet: $*" >&2; }
stop() { warn "${@:2}" && exit "$1"; } # CODE WORDS...

mode=${1:-} settings='' manifests=() sure=
[[ ${mode} == plan || ${mode} == open || ${mode} == close ]] || usage
shift
while getopts f:m:y option; do
  case ${option} in
    f) settings=${OPTARG} ;;
    m) manifests+=("${OPTARG}") ;;
    y) sure=yes ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[[ $# -eq 0 || ($# -eq 1 && ${mode} == close) ]] || usage

# Checks all settings before anything else: a missing one would later be an empty argument.
read_settings() { # [REGION]
  local name terraform=${here}/../terraform
  if [[ -n ${settings} ]]; then
    [[ -r ${settings} ]] || stop 2 "the settings file ${settings} cannot be read"
    # shellcheck source=/dev/null
    source "${settings}"
  else
    settings="the output fleet of ${terraform}"
    # shellcheck source=/dev/null
    source <(terraform -chdir="${terraform}" output -raw fleet)
  fi
  for name in PROJECT PREFIX REGIONS CONFIG_REGION NAMESPACE RESIDENCY HOSTS_PER_REPLICA DRANET; do
    [[ -n ${!name:-} ]] || stop 2 "${name} is not set in ${settings}; run terraform apply first"
  done
  [[ -z ${1:-} || " ${REGIONS} " == *" $1 "* ]] || stop 2 "$1 is not one of the regions ${REGIONS}"
  [[ ${RESIDENCY} == any || ${RESIDENCY} == region ]] || stop 2 "RESIDENCY is ${RESIDENCY} in ${settings}; it is any or region"
  [[ ${RESIDENCY} == region || ${1:-} != "${CONFIG_REGION}" ]] ||
    stop 2 "$1 has the config cluster; set config_region to another region and apply, and install the gateway there"
}

preflight() {
  local tool
  for tool in gcloud kubectl gke-gcloud-auth-plugin; do
    command -v "${tool}" >/dev/null || stop 1 "${tool} is not installed"
  done
  # The output of a look is captured, so nobody would see gcloud's question in it.
  export CLOUDSDK_CORE_DISABLE_PROMPTS=1
  said=$(mktemp)
  trap 'rm -f "${said}"' EXIT
}

# Prints a command and, except in a plan, runs it.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ ${mode} == plan ]] || "$@"
}

# Messages of gcloud and kubectl that a resource does not exist.
absent="code=404|NOT_FOUND|Feature for project .* is not enabled|\(NotFound\)|doesn't have a resource type"

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

# at REGION: `kube` becomes the kubectl of that region's cluster.
at() { kube=(kubectl "--context=gke_${PROJECT}_$1_${PREFIX}-$1"); }

# The control plane's DNS name is reached from everywhere, where IAM allows it.
credentials() {
  run gcloud container clusters get-credentials "${PREFIX}-$1" --location="$1" --dns-endpoint --project="${PROJECT}"
}

# With residency region every cluster has a Gateway of its own. Otherwise the config cluster has the one of all regions.
has_gateway() { [[ ${RESIDENCY} == region || $1 == "${CONFIG_REGION}" ]]; } # REGION

open_all() {
  local region class=gke-l7-cross-regional-internal-managed-mc
  [[ ${RESIDENCY} == any ]] || class=gke-l7-rilb
  [[ ${RESIDENCY} == region ]] ||
    await 'fleet ingress' OK gcloud container fleet ingress describe --format='value(state.state.code)' \
      --project="${PROJECT}"
  for region in ${REGIONS}; do
    credentials "${region}"
    at "${region}"
    look "${kube[@]}" get namespace "${NAMESPACE}" || run "${kube[@]}" create namespace "${NAMESPACE}"
    apply_manifests "${region}"
    [[ ${DRANET} != true ]] ||
      await "the DeviceClass of DRANET in ${region}" '?*' "${kube[@]}" get deviceclass netdev.google.com
    ! has_gateway "${region}" ||
      await "the GatewayClass ${class} in ${region}" '?*' "${kube[@]}" get gatewayclass "${class}"
  done
}

apply_manifests() { # REGION
  local manifest
  for manifest in "${manifests[@]}"; do
    run "${kube[@]}" apply --server-side --filename="${manifest}"
  done
  [[ ${HOSTS_PER_REPLICA} -eq 1 || ${mode} == plan ]] ||
    look "${kube[@]}" get crd leaderworkersets.leaderworkerset.x-k8s.io ||
    stop 1 "slices of ${HOSTS_PER_REPLICA} hosts need LeaderWorkerSet, which GKE does not install in $1;" \
      "run this script again with -m and the manifest of a LeaderWorkerSet release"
}

# Gateways go before the namespaces: their controllers delete the load balancers after them.
close_all() { # [REGION]
  local region alive=()
  ask "${1:-${REGIONS}}"
  for region in ${1:-${REGIONS}}; do
    # A cluster that did not start, or is being deleted, does not answer kubectl.
    if look gcloud container clusters describe "${PREFIX}-${region}" --location="${region}" \
      --format='value(status)' --project="${PROJECT}" && [[ ${found} == RUNNING || ${found} == RECONCILING ]]; then
      credentials "${region}"
      alive+=("${region}")
    else
      warn "the cluster of ${region} does not run; nothing was deleted in it"
    fi
  done
  delete_gateways "${alive[@]}"
  for region in "${alive[@]}"; do
    at "${region}"
    gone "${kube[@]}" get namespace "${NAMESPACE}" ||
      delete "${kube[@]}" delete namespace "${NAMESPACE}" --timeout=10m
  done
}

ask() { # REGIONS
  local answer=
  [[ -z ${sure} ]] || return 0
  warn "this deletes the namespace ${NAMESPACE} with everything in it, in $1 of ${PROJECT}"
  read -r -p "Type ${PROJECT} to go on: " answer || true
  [[ ${answer} == "${PROJECT}" ]] || stop 1 "nothing was deleted"
}

delete_gateways() { # REGION...
  local region deleted='' kinds=gateways.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io
  kinds+=,healthcheckpolicies.networking.gke.io,gcpbackendpolicies.networking.gke.io
  for region in "$@"; do
    has_gateway "${region}" || continue
    at "${region}"
    look "${kube[@]}" get namespace "${NAMESPACE}" || continue
    delete "${kube[@]}" delete "${kinds}" --all --namespace="${NAMESPACE}" --timeout=10m
    deleted=yes
  done
  [[ -z ${deleted} ]] || sleep "${GATEWAY_SECONDS}"
}

read_settings "$@"
[[ ${mode} == plan ]] || preflight
if [[ ${mode} == close ]]; then
  close_all "$@"
  echo "fleet: next, in k8s/terraform, run terraform destroy, or take the region out of regions and run terraform apply"
else
  open_all
  gateways=${PREFIX}-${CONFIG_REGION}
  [[ ${RESIDENCY} == any ]] || gateways='each cluster, with its own region only'
  echo "fleet: next, install helm/antipode in each cluster, then helm/antipode-gateway in ${gateways}"
fi
