{{- define "proxy-executor.service" -}}
{{- $rbac := .values.rbac -}}
{{- $services := .root.Values.agent.services -}}
bus: true
kubernetes: true
env:
  PIPEOPS_RBAC_MODE: {{ $rbac.mode }}
  {{- with .values.policy }}
  PIPEOPS_POLICY_ALLOW_SYSTEM_IDENTITIES: {{ .allowSystemIdentities | quote }}
  PIPEOPS_POLICY_READ_ONLY: {{ .readOnly | quote }}
  {{- with .verbs }}
  PIPEOPS_POLICY_VERBS: {{ join "," . | quote }}
  {{- end }}
  {{- with .namespaces }}
  PIPEOPS_POLICY_NAMESPACES: {{ join "," . | quote }}
  {{- end }}
  {{- with .deniedSubresources }}
  PIPEOPS_POLICY_DENIED_SUBRESOURCES: {{ join "," . | quote }}
  {{- end }}
  {{- end }}
  PIPEOPS_SERVICES_ALLOW: {{ join "," $services.allow | quote }}
  PIPEOPS_SERVICES_DENY: {{ join "," $services.deny | quote }}
  {{- with $services.clusterDomain }}
  PIPEOPS_SERVICES_CLUSTER_DOMAIN: {{ . | quote }}
  {{- end }}
{{- if $services.allow }}
# The pods behind Services, on whatever ports they listen; which Services that may be is decided by the process (agent.services).
egress:
  - to:
      - namespaceSelector: {}
{{- end }}
{{- if eq $rbac.mode "impersonate" }}
{{- $constrained := $rbac.impersonate.constrained }}
clusterRules:
  {{- range $resource := list "users" "groups" }}
  - apiGroups: [{{ ternary "authentication.k8s.io" "" $constrained | quote }}]
    resources: [{{ $resource }}]
    verbs: [{{ ternary "impersonate:user-info" "impersonate" $constrained | quote }}]
    {{- with get $rbac.impersonate $resource }}
    resourceNames: {{ toJson . }}
    {{- end }}
  {{- end }}
  {{- if .values.facts.counts }}
  # To count them. RBAC knows no right to count: it asks for one object's metadata and the number of the others.
  - apiGroups: [""]
    resources: [nodes, pods]
    verbs: [list]
  {{- end }}
  {{- if $constrained }}
  # What may be asked for as such a user; it allows nothing that the user may not do.
  - apiGroups: ["*"]
    resources: ["*"]
    verbs:
      {{- range list "get" "list" "watch" "create" "update" "patch" "delete" "deletecollection" }}
      - impersonate-on:user-info:{{ . }}
      {{- end }}
  - nonResourceURLs: ["*"]
    verbs:
      {{- range list "get" "head" "options" "post" "put" "patch" "delete" }}
      - impersonate-on:user-info:{{ . }}
      {{- end }}
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
