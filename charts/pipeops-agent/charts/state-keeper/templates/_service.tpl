{{- define "state-keeper.service" -}}
{{- $state := .root.Values.agent.state -}}
bus: true
kubernetes: true
env:
  PIPEOPS_STATE_CONFIGMAP_NAME: {{ $state.configMapName | quote }}
  PIPEOPS_STATE_SECRET_NAME: {{ $state.secretName | quote }}
  PIPEOPS_STATE_NAMESPACE: {{ .root.Release.Namespace | quote }}
  {{- with .root.Values.agent.id }}
  PIPEOPS_AGENT_ID: {{ . | quote }}
  {{- end }}
rules:
  - apiGroups: [""]
    resources: [configmaps]
    resourceNames: [{{ $state.configMapName | quote }}]
    verbs: [get, update]
  - apiGroups: [""]
    resources: [secrets]
    resourceNames: [{{ $state.secretName | quote }}]
    verbs: [get, update]
  # Who leads, of services that several instances run of: kept here for all of them.
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    resourceNames: [pipeops-agent-gateway-link, pipeops-agent-route-syncer, pipeops-agent-components-installer]
    verbs: [get, update]
  # The name of an object that is being created cannot be restricted: the API server does not know it yet.
  - apiGroups: [""]
    resources: [configmaps, secrets]
    verbs: [create]
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    verbs: [create]
{{- end -}}
