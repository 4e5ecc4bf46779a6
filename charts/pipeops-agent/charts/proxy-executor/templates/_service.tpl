{{- define "proxy-executor.service" -}}
{{- $rbac := .values.rbac -}}
bus: true
kubernetes: true
env:
  PIPEOPS_RBAC_MODE: {{ $rbac.mode }}
  PIPEOPS_POLICY_ALLOW_SYSTEM_IDENTITIES: {{ .values.policy.allowSystemIdentities | quote }}
{{- if eq $rbac.mode "impersonate" }}
clusterRules:
  - apiGroups: [""]
    resources: [users]
    verbs: [impersonate]
    {{- with $rbac.impersonate.users }}
    resourceNames: {{ toJson . }}
    {{- end }}
  - apiGroups: [""]
    resources: [groups]
    verbs: [impersonate]
    {{- with $rbac.impersonate.groups }}
    resourceNames: {{ toJson . }}
    {{- end }}
{{- else if eq $rbac.mode "view" }}
clusterRole: view
{{- else if eq $rbac.mode "admin" }}
clusterRole: cluster-admin
{{- else if eq $rbac.mode "custom" }}
{{- if not $rbac.rules }}{{ fail "proxy-executor.rbac.mode is custom: proxy-executor.rbac.rules must not be empty" }}{{ end }}
clusterRules:
  {{- toYaml $rbac.rules | nindent 2 }}
{{- end }}
{{- with $rbac.bindings }}
bindings:
  {{- range . }}
  - clusterRole: {{ .clusterRole }}
    namespace: {{ .namespace | default "" | quote }}
    subject:
      kind: {{ empty .user | ternary "Group" "User" }}
      name: {{ .user | default .group | quote }}
  {{- end }}
{{- end }}
{{- end -}}
