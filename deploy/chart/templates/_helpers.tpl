{{/* The name of all objects: the release's, with the chart's unless it contains that. Suffixes take the rest of the length. */}}
{{- define "mokv.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mokv.headless" -}}
{{ include "mokv.fullname" . }}-headless
{{- end -}}

{{- define "mokv.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The pods that hold the data: those of jobs and tests have the labels above, too, but not this one. */}}
{{- define "mokv.nodes" -}}
{{ include "mokv.selector" . }}
app.kubernetes.io/component: node
{{- end -}}

{{- define "mokv.labels" -}}
{{ include "mokv.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "mokv.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "mokv.keySecret" -}}
{{- default (printf "%s-key" (include "mokv.fullname" .)) .Values.clusterKey.existingSecret -}}
{{- end -}}

{{- define "mokv.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mokv.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The first pods, each by its name: a job before an upgrade cannot rely on any one pod being ready. */}}
{{- define "mokv.endpoints" -}}
{{- $endpoints := list -}}
{{- range until (int .Values.bootstrapExpect) -}}
{{- $endpoints = append $endpoints (printf "%s-%d.%s.%s.svc.%s:%d" (include "mokv.fullname" $) . (include "mokv.headless" $) $.Release.Namespace $.Values.clusterDomain (int $.Values.ports.rpc)) -}}
{{- end -}}
{{- join "," $endpoints -}}
{{- end -}}
