{{- define "platform.labels" -}}
app.kubernetes.io/part-of: tandem-platform
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* How many copies of each record there are. */}}
{{- define "platform.copies" -}}
{{ min 3 (int .Values.kafka.brokers.replicas) }}
{{- end -}}

{{/* How many copies an acknowledged record has: all but one, or the only one (common/kafka/settings.py). */}}
{{- define "platform.inSync" -}}
{{ max 1 (sub (int (include "platform.copies" .)) 1) }}
{{- end -}}

{{/* What the restricted Pod Security Standard asks of Strimzi's pods. */}}
{{- define "platform.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "platform.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "platform.volume" -}}
type: jbod
volumes:
  - id: 0
    type: persistent-claim
    size: {{ .size }}
    {{- with .class }}
    class: {{ . }}
    {{- end }}
    deleteClaim: false
    kraftMetadata: shared
{{- end -}}
