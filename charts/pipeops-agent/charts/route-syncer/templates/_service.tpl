{{- define "route-syncer.service" -}}
bus: true
kubernetes: true
env:
  PIPEOPS_ROUTES_REFRESH_INTERVAL: {{ .values.refreshInterval | quote }}
  {{- with .root.Values.agent.services }}
  PIPEOPS_SERVICES_ALLOW: {{ join "," .allow | quote }}
  PIPEOPS_SERVICES_DENY: {{ join "," .deny | quote }}
  {{- end }}
clusterRules:
  - apiGroups: [networking.k8s.io]
    resources: [ingresses, ingressclasses]
    verbs: [get, list, watch]
  - apiGroups: [""]
    resources: [services]
    verbs: [get, list, watch]
  # What became of an Ingress is written beside it, for `kubectl describe`.
  - apiGroups: [events.k8s.io]
    resources: [events]
    verbs: [create]
{{- end -}}
