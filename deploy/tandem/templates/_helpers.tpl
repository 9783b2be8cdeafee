{{/* What the code fixes of each process: its port, how it is started, its databases. */}}
{{- define "tandem.facts" -}}
order-api: {port: 8081, command: [order, api], databases: [order]}
order-saga: {port: 8084, command: [order, saga], databases: [order]}
payment: {port: 8082, command: [payment], databases: [payment]}
inventory: {port: 8083, command: [inventory], databases: [inventory]}
console: {port: 8080, command: [ops.console], databases: [order, payment, inventory]}
migrate: {port: 0, command: [ops.migrate], databases: [order, payment, inventory]}
{{- end -}}

{{- define "tandem.adminPort" -}}9000{{- end -}}

{{/* Where the password files are that libpq takes: only their owner may read them. */}}
{{- define "tandem.private" -}}/private{{- end -}}

{{- define "tandem.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: tandem
{{- end -}}

{{- define "tandem.labels" -}}
{{ include "tandem.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "tandem.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ required "image.tag or image.digest must name the image" .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The roles whose passwords a process has, as lines "<database> <role>". */}}
{{- define "tandem.roles" -}}
{{- range .fact.databases }}
{{- if eq $.name "migrate" }}
- {database: {{ . }}, role: postgres, variable: {{ upper . }}_ADMIN_URL, in: postgres, secret: {{ (index $.root.Values.databases .).superuserSecret }}}
{{- end }}
- {database: {{ . }}, role: {{ . }}, variable: {{ upper . }}_DATABASE_URL, in: {{ . }}, secret: {{ (index $.root.Values.databases .).roleSecret }}}
{{- if gt (len $.fact.databases) 1 }}
- {database: {{ . }}, role: auditor, variable: {{ upper . }}_AUDITOR_URL, in: {{ . }}, secret: {{ (index $.root.Values.databases .).auditorSecret }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "tandem.environment" -}}
{{- $values := .root.Values -}}
{{- range (include "tandem.roles" . | fromYamlArray) }}
{{- $database := index $values.databases .database }}
- name: {{ .variable }}
  value: postgresql://{{ .role }}@{{ $database.servers }}/{{ .in }}?sslmode=verify-full&channel_binding=require&sslrootcert=/secrets/{{ .database }}-ca.pem&passfile={{ include "tandem.private" $ }}/{{ .database }}-{{ .role }}.pgpass{{ with $database.options }}&{{ . }}{{ end }}
{{- end }}
- {name: LOG_FORMAT, value: json}
{{- if ne .name "migrate" }}
- {name: INSTANCE, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: KAFKA_BOOTSTRAP_SERVERS, value: {{ $values.kafka.bootstrapServers | quote }}}
- {name: KAFKA_SECURITY_PROTOCOL, value: SASL_SSL}
- {name: KAFKA_CA_FILE, value: /secrets/kafka-ca.pem}
- {name: KAFKA_USERNAME, value: {{ .name }}}
- {name: KAFKA_PASSWORD_FILE, value: /secrets/kafka.password}
- {name: TOPIC_PARTITIONS, value: {{ $values.kafka.partitions | quote }}}
- {name: HTTP_HOST, value: 0.0.0.0}
- {name: HTTP_PORT, value: {{ .fact.port | quote }}}
- {name: ADMIN_PORT, value: {{ include "tandem.adminPort" . | quote }}}
- {name: ALLOWED_HOSTS, value: {{ concat (list .name (printf "%s.%s" .name .root.Release.Namespace) (printf "%s.%s.svc" .name .root.Release.Namespace)) (ternary (list $values.ingress.host) (list) $values.ingress.enabled) $values.http.allowedHosts | uniq | join "," | quote }}}
{{- with $values.http.trustedProxies }}
- {name: TRUSTED_PROXIES, value: {{ join "," . | quote }}}
{{- end }}
- {name: AUTH_AUDIENCE, value: {{ $values.auth.audience | quote }}}
- {name: AUTH_REMEMBERED_MAX, value: {{ $values.auth.rememberedMax | int | quote }}}
- {name: AUTH_LEEWAY_S, value: {{ $values.auth.leewaySeconds | quote }}}
{{- if or $values.auth.jwksUrl $values.auth.jwksSecret }}
- {name: AUTH_ISSUER, value: {{ required "auth.issuer must be the iss of the tokens" $values.auth.issuer | quote }}}
- {name: AUTH_JWKS, value: {{ $values.auth.jwksUrl | default "/secrets/jwks.json" | quote }}}
{{- end }}
{{- if $values.auth.keysSecret }}
- {name: AUTH_KEYS_FILE, value: /secrets/keys.json}
{{- end }}
{{- if $values.tls.enabled }}
- {name: TLS_CERT_FILE, value: /secrets/tls.pem}
- {name: TLS_KEY_FILE, value: /secrets/tls.key}
- {name: TLS_CA_FILE, value: /secrets/tls-ca.pem}
{{- end }}
{{- if eq .name "console" }}
- {name: CONSOLE_STACK, value: other}
- {name: CONSOLE_ORDER_API, value: "order-api:8081"}
- {name: CONSOLE_TARGETS, value: "{{ range $i, $service := keys $values.services | sortAlpha }}{{ if $i }},{{ end }}{{ $service }}={{ $service }}-admin:{{ include "tandem.adminPort" $ }}{{ end }}"}
{{- end }}
{{- end }}
{{- range $name, $value := merge (dict) (.own.env | default dict) $values.env }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end -}}

{{/* All that a process reads from files, but for the passwords of databases. They change in place. */}}
{{- define "tandem.secretSources" -}}
{{- $values := .root.Values -}}
{{- range .fact.databases }}
{{- $ca := (index $values.databases .).ca }}
- secret: {name: {{ $ca.secret }}, items: [{key: {{ $ca.key }}, path: {{ . }}-ca.pem}]}
{{- end }}
{{- if ne .name "migrate" }}
- secret: {name: {{ $values.kafka.ca.secret }}, items: [{key: {{ $values.kafka.ca.key }}, path: kafka-ca.pem}]}
- secret: {name: {{ index $values.kafka.secrets .name | default .name }}, items: [{key: password, path: kafka.password}]}
{{- if and $values.auth.jwksSecret (not $values.auth.jwksUrl) }}
- secret: {name: {{ $values.auth.jwksSecret }}, items: [{key: jwks.json, path: jwks.json}]}
{{- end }}
{{- with $values.auth.keysSecret }}
- secret: {name: {{ . }}, items: [{key: keys.json, path: keys.json}]}
{{- end }}
{{- if $values.tls.enabled }}
- secret:
    name: {{ index $values.tls.secrets .name | default (printf "%s-tls" .name) }}
    items: [{key: tls.crt, path: tls.pem}, {key: tls.key, path: tls.key}, {key: ca.crt, path: tls-ca.pem}]
{{- end }}
{{- end }}
{{- end -}}

{{/* The pod of a process. Takes root, name, fact (of tandem.facts) and own (its values). */}}
{{- define "tandem.pod" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ ternary "migrate" "tandem" (eq .name "migrate") }}
automountServiceAccountToken: false
# Kubernetes would set CONSOLE_PORT and others, which mean something else to the processes.
enableServiceLinks: false
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
initContainers:
  # A Secret cannot be mounted so that only a user other than root may read it, and libpq takes no other password file.
  - name: passwords
    image: {{ include "tandem.image" .root }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    restartPolicy: Always
    command: [python, -m, common.secrets.copies, /passwords, {{ include "tandem.private" . }}]
    startupProbe:
      exec: {command: [test, -e, {{ include "tandem.private" . }}/complete]}
      periodSeconds: 1
      failureThreshold: 60
    securityContext: &confined
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    resources:
      requests: {cpu: 5m, memory: 24Mi, ephemeral-storage: 1Mi}
      limits: {memory: 48Mi, ephemeral-storage: 16Mi}
    volumeMounts:
      - {name: passwords, mountPath: /passwords, readOnly: true}
      - {name: private, mountPath: {{ include "tandem.private" . }}}
containers:
  - name: {{ .name }}
    image: {{ include "tandem.image" .root }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: {{ concat (list "python" "-m") .fact.command | toJson }}
    env:
      {{- include "tandem.environment" . | trim | nindent 6 }}
    securityContext: *confined
    resources:
      {{- toYaml .own.resources | nindent 6 }}
    {{- if ne .name "migrate" }}
    ports:
      - {name: http, containerPort: {{ .fact.port }}}
      - {name: admin, containerPort: {{ include "tandem.adminPort" . }}}
    # A process that waits for the broker or a database is alive, and restarting it would not help.
    startupProbe:
      httpGet: &alive {path: /livez, port: admin, scheme: {{ ternary "HTTPS" "HTTP" $values.tls.enabled }}}
      periodSeconds: 2
      timeoutSeconds: 5
      failureThreshold: 60
    livenessProbe:
      httpGet: *alive
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /readyz, port: admin, scheme: {{ ternary "HTTPS" "HTTP" $values.tls.enabled }}}
      periodSeconds: 2
      timeoutSeconds: 5
      failureThreshold: 2
    lifecycle:
      preStop: {sleep: {seconds: {{ $values.preStopSeconds }}}}
    {{- end }}
    volumeMounts:
      - {name: secrets, mountPath: /secrets, readOnly: true}
      - {name: private, mountPath: {{ include "tandem.private" . }}, readOnly: true}
      - {name: tmp, mountPath: /tmp}
volumes:
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        {{- include "tandem.secretSources" . | trim | nindent 8 }}
  - name: passwords
    projected:
      defaultMode: 0440
      sources:
        {{- range (include "tandem.roles" . | fromYamlArray) }}
        - secret: {name: {{ .secret }}, items: [{key: pgpass, path: {{ .database }}-{{ .role }}.pgpass}]}
        {{- end }}
  - name: private
    emptyDir: {medium: Memory, sizeLimit: 1Mi}
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
{{- end -}}

{{- define "tandem.egressToDns" -}}
- to:
    {{- toYaml .Values.network.dns | nindent 4 }}
  ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}

{{- define "tandem.egressToDatabases" -}}
{{- range .fact.databases }}
- to:
    {{- toYaml (index $.root.Values.network.databases .) | nindent 4 }}
  ports:
    {{- range splitList "," (index $.root.Values.databases .).servers }}
    - {port: {{ include "tandem.port" (list . 5432) }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end -}}

{{/* The port of HOST:PORT, or a default. */}}
{{- define "tandem.port" -}}
{{ regexFind ":[0-9]+$" (index . 0) | trimPrefix ":" | default (index . 1) }}
{{- end -}}
