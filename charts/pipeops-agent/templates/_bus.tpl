{{- /*
Users of the bus: {<service>: {password, hash}} for every enabled subchart. Generated passwords are kept over upgrades,
their hashes too: a fresh bcrypt of the same password differs, and would restart NATS at every upgrade.
With bus.existingSecret both are empty and every party reads the password from there.
*/ -}}
{{- define "pipeops.bus.users" -}}
{{- $users := dict -}}
{{- range $name, $chart := .Subcharts -}}
{{- if ne $name "nats" -}}
{{- $user := dict "password" "" "hash" "" -}}
{{- if not $.Values.bus.existingSecret -}}
{{- $secret := lookup "v1" "Secret" $.Release.Namespace (include "pipeops.bus.secret" (dict "root" $ "name" $name)) -}}
{{- $data := ($secret | default dict).data | default dict -}}
{{- if and $data.password $data.bcrypt -}}
{{- $user = dict "password" ($data.password | b64dec) "hash" ($data.bcrypt | b64dec) -}}
{{- else -}}
{{- $password := randAlphaNum 32 -}}
{{- $user = dict "password" $password "hash" (bcrypt $password) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $users $name $user -}}
{{- end -}}
{{- end -}}
{{- toYaml $users -}}
{{- end -}}

{{- /* Secret with one service's password. Takes {root, name}. */ -}}
{{- define "pipeops.bus.secret" -}}
{{- .root.Values.bus.existingSecret | default (printf "%s-bus" (include "pipeops.name" .)) -}}
{{- end -}}
