#!/bin/sh
# Gets a cluster and a bus ready for docker-compose.yaml. The cluster is that of the current kubectl context, or $KUBECONFIG.
# Installs the agent's chart without pods in a namespace of its own, so that the services have the ServiceAccounts and rights they
# have in a cluster, and an agent that is there keeps its identity. Writes into docker/.local, which git ignores: the API server's CA,
# its address, a token for each of the three that talk to it, a password for each user of the bus, and the chart's nats.conf for them.
# To take it out of the cluster again: helm uninstall pipeops-local -n pipeops-local; kubectl delete namespace pipeops-local
# Arguments go to helm, for instance:
#   docker/kubernetes.sh --set 'proxy-executor.rbac.bindings[0].group=developers' --set 'proxy-executor.rbac.bindings[0].clusterRole=view'
set -eu

namespace=pipeops-local
release=pipeops-local
here=$(cd "$(dirname "$0")" && pwd)
folder=$here/.local
chart() {
  action=$1
  shift
  helm "$action" "$release" "$here/../charts/pipeops-agent" --namespace "$namespace" --set agent.cluster.name=local \
    --set agent.pipeops.apiUrl=https://control-plane:8443 --set agent.pipeops.token=unused --set bus.existingSecret=unused "$@"
}

chart upgrade --install --create-namespace --set gateway-link.enabled=false --set nats.enabled=false --set bus.url=nats://nats:4222 \
  --set proxy-executor.replicaCount=0 --set route-syncer.replicaCount=0 --set state-keeper.replicaCount=0 "$@" >/dev/null

# The containers run as another user than the one who runs this: the files are open, the folder around them is not.
mkdir -p "$folder"
chmod 700 "$folder"
umask 022
mkdir -p "$folder/kubernetes" "$folder/passwords"
# A namespace that is new has it a moment later.
for _ in 1 2 3 4 5 6 7 8 9 10; do
  if kubectl -n "$namespace" get configmap kube-root-ca.crt >/dev/null 2>&1; then break; fi
  sleep 1
done
kubectl -n "$namespace" get configmap kube-root-ca.crt -o 'jsonpath={.data.ca\.crt}' >"$folder/kubernetes/ca.crt"
for service in proxy-executor route-syncer state-keeper; do
  kubectl -n "$namespace" create token "$release-$service" --duration 8h >"$folder/kubernetes/$service.token"
done
url=$(kubectl config view --minify --flatten -o 'jsonpath={.clusters[0].cluster.server}')
printf 'PIPEOPS_KUBERNETES_API_URL=%s\n' "$url" >"$folder/env"

# The chart's file names the passwords as variables, which are set above it. Those of an earlier run stay: they may be in use.
for service in gateway-link proxy-executor route-syncer state-keeper; do
  password=$folder/passwords/$service
  test -s "$password" || od -An -N 16 -t x1 /dev/urandom | tr -d ' \n' >"$password"
  printf 'BUS_PASSWORD_%s: "%s"\n' "$(printf '%s' "$service" | tr 'a-z-' 'A-Z_')" "$(cat "$password")"
done >"$folder/nats.conf"
chart template --show-only templates/services.yaml |
  kubectl create --dry-run=client -f - -o 'go-template={{with .stringData}}{{with index . "nats.conf"}}{{.}}{{end}}{{end}}' >>"$folder/nats.conf"

echo "ready for 8 hours: docker compose up --build"
