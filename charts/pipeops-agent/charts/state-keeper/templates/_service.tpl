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
  # The name of an object that is being created cannot be restricted: the API server does not know it yet.
  - apiGroups: [""]
    resources: [configmaps, secrets]
    verbs: [create]
{{- end -}}
