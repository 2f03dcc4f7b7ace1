{{- /* Prefix of every name. A release called openinference repeats nothing. */ -}}
{{- define "openinference.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "openinference.operatorName" -}}
{{- include "openinference.fullname" . }}-operator
{{- end -}}

{{- define "openinference.routerClusterRole" -}}
{{- include "openinference.fullname" . }}-router
{{- end -}}

{{- define "openinference.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: openinference
{{ include "openinference.selectorLabels" . }}
{{- end -}}

{{- /* The part of the labels that a Deployment may never change. */ -}}
{{- define "openinference.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- /* [registry/]repository:tag[@digest] of the part (operator, router, engine) given as `part`. */ -}}
{{- define "openinference.image" -}}
{{- $image := (get .root.Values .part).image -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository }}:{{ $image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end -}}
