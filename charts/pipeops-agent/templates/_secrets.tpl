{{- define "pipeops.secrets" -}}
{{- if and .spec.bus (not .root.Values.bus.existingSecret) }}
{{- $user := index .users .name }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "pipeops.bus.secret" . }}
  labels:
    {{- include "pipeops.labels" . | nindent 4 }}
type: Opaque
stringData:
  username: {{ .name }}
  password: {{ $user.password | quote }}
  bcrypt: {{ $user.hash | quote }}
{{- end }}
{{- with .spec.secret }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "pipeops.name" $ }}
  labels:
    {{- include "pipeops.labels" $ | nindent 4 }}
type: Opaque
stringData:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
