#!/bin/sh
# Gets a cluster ready for docker-compose.yaml: the current kubectl context, or $KUBECONFIG.
# Installs the agent's chart without pods, so that the services have the ServiceAccounts and rights they have in a cluster,
# and writes the API server's CA, its address and a token for each of the two that talk to it into docker/.kubernetes.
# Arguments go to helm, for instance:
#   docker/kubernetes.sh --set 'proxy-executor.rbac.bindings[0].group=developers' --set 'proxy-executor.rbac.bindings[0].clusterRole=view'
set -eu

namespace=pipeops-system
release=pipeops-local
here=$(cd "$(dirname "$0")" && pwd)
folder=$here/.kubernetes

helm upgrade --install "$release" "$here/../charts/pipeops-agent" --namespace "$namespace" --create-namespace \
  --set agent.cluster.name=local --set agent.pipeops.apiUrl=https://control-plane:8443 --set agent.pipeops.token=unused \
  --set gateway-link.enabled=false --set nats.enabled=false --set bus.url=nats://nats:4222 \
  --set proxy-executor.replicaCount=0 --set state-keeper.replicaCount=0 "$@" >/dev/null

# The containers run as another user than the one who runs this: the files are open, the folder around them is not.
mkdir -p "$folder/files"
chmod 700 "$folder"
umask 022
# A namespace that is new has it a moment later.
for _ in 1 2 3 4 5 6 7 8 9 10; do
  if kubectl -n "$namespace" get configmap kube-root-ca.crt >/dev/null 2>&1; then break; fi
  sleep 1
done
kubectl -n "$namespace" get configmap kube-root-ca.crt -o 'jsonpath={.data.ca\.crt}' >"$folder/files/ca.crt"
for service in proxy-executor state-keeper; do
  kubectl -n "$namespace" create token "$release-$service" --duration 8h >"$folder/files/$service.token"
done
url=$(kubectl config view --minify --flatten -o 'jsonpath={.clusters[0].cluster.server}')
printf 'PIPEOPS_KUBERNETES_API_URL=%s\n' "$url" >"$folder/env"

echo "ready for 8 hours: docker compose up --build"
