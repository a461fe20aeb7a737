"""The commented configuration that `remit init` writes."""

TEMPLATE = """\
# Remit's configuration. Every setting is shown. Behind a `#` stands its default, and taking the `#`
# away changes nothing; but in a block that begins with "Example" nothing is set until you write it.
# Paths are relative to this file. An unknown key is an error. Check it with: remit doctor

[authority]
# Where keys, state and evidence live: readable by you alone. Losing it loses the evidence;
# docs/operate/keys-and-backup.md says how to back it up.
# state = ".remit"

# The name your agents' identities start with: spiffe://remit.local/agent/NAME. It cannot be
# changed later without giving every agent a new identity, so choose it now.
trust_domain = "remit.local"

# Loopback only, unless you say allow_remote = true; then set [authority.tls] too, or every token
# crosses the network in clear.
# listen = "127.0.0.1:7480"    # host:port; [::1]:7480 for IPv6
# allow_remote = false

# Example: the address clients use, where it is not the one above (behind a proxy).
# url = "https://remit.example.com"

# Who may be answered, besides this address itself.
# allowed_hosts = []     # further Host headers that are accepted; others are refused (rebinding)
# allowed_origins = []   # further Origin headers

# Whom an agent's identity token has to be made out for.
# audience = "remit"

# Whether an agent has to show, with every request about a task, that it holds a key (DPoP, RFC
# 9449; `remit gateway stdio` and the examples do). "when_bound": where the task or the identity is
# bound to a key, as by the first proof shown under a task. Then a client that makes no proofs works,
# and whoever captures its identity and task token can use both until they expire. "required": no
# agent opens or uses a task without a proof.
# proof_of_possession = "when_bound"

# Example: without this block, http and not https.
# [authority.tls]
# cert = "server.pem"            # the certificate's chain, PEM
# key = "server.key"             # its private key, PEM, without a passphrase

# Example: what the agents call; at first there is nothing. A name is what they see: /mcp/NAME.
# Either a command that speaks MCP on its standard input and output, or the URL of a server that
# speaks it over HTTP.
#
# [upstream.git]
# command = ["mcp-server-git"]   # program and arguments; started, watched and restarted by Remit
# environment = "dev"            # dev, staging or prod: policy compares it with the mandate's
# env = { GIT_TERMINAL_PROMPT = "0" }   # all that the process gets, beside PATH, HOME and locale
# cwd = "."                      # where it runs
# trusted = false                # may its results be believed?
# timeout_seconds = 60           # the longest it may be silent within a call
# processes = 32                 # how many of this command may run; past it calls are refused
# processes_per_agent = 8        # of one agent: its sessions, and its leases with an `env`
# pin = "first-sight"            # or "accepted": no tool is usable before somebody accepts it
#
# Example: what you know better of one tool than its server says. These are no defaults. What you
# leave out stays as it is: `environment` and `trusted` as the upstream's above, `side_effects` true
# for a tool, `confidentiality` public, and no category and no destination.
# [upstream.git.tool.git_commit]
# side_effects = true            # does it change anything?
# environment = "dev"            # dev, staging or prod
# confidentiality = "internal"   # of its results: public, internal, confidential, restricted
# trusted = true                 # may its results be believed?
# categories = ["pii"]           # of its results: pii, secret, financial, ...
# destinations = ["url"]         # its arguments that say where or to whom
#
# Example: a server that speaks MCP over HTTP.
# [upstream.crm]
# url = "https://crm.example.com/mcp"   # in place of `command`
# environment = "prod"
# ca_file = "corp-ca.pem"        # who may have signed its certificate, in place of the system's
#
# Example: a credential of its own for every call (or task), minted by a broker, put in by the
# gateway, never seen by the agent, and taken back. Say where it goes: `header`, or `env` of a
# command's process, `meta`, or `tls`. What stands in braces is a value of the broker's: see its page
# in docs/brokers/.
# [upstream.crm.credential]
# broker = "crm-tokens"          # which of the brokers below mints it
# scope = "call"                 # or "task": one for the task's calls, settled with it
# seconds = 300                  # the longest it may live
# grant = {}                     # what it may do there: the broker's page says how that is written
# header = { Authorization = "Bearer {token}" }
# env = {}                       # of its process, where it is a command
# meta = {}                      # of the call's _meta
# tls = "{bundle}"               # a key and certificate, shown in the handshake of an https url
#
# Example: what mints it. Some kinds want a package more, as pip install 'remit[postgres]': their page
# and remit doctor say so.
# [broker.crm-tokens]
# kind = "jwt"                   # further keys are the broker's own: docs/brokers/
#
# Example: a PostgreSQL database that the gateway serves itself, as the tools `query` and `execute`,
# one statement a call, under a role of its own (docs/sql.md). It wants a `credential` of a broker of
# kind "postgres", without `header`, `env` or `meta`.
# [upstream.books.sql]
# default_schema = "public"      # where a table is looked for that is named without its schema
# max_rows = 1000                # more are cut off a query, and refused to a change
# max_bytes = 1048576            # a larger answer is refused
# statement_seconds = 30         # a statement that takes longer is ended
# connect_seconds = 5            # how long the database may take to answer at all
#
# Example: every table that a statement may name, each with its columns in order: `*` becomes these.
# [upstream.books.sql.tables]
# "public.ledger" = ["id", "account", "amount"]
#
# Example: what its roles come from, as above.
# [upstream.books.credential]
# broker = "crm-tokens"          # one of kind "postgres"

# Example: HTTP APIs that agents call through /egress/NAME/..., one table each, with names that no
# upstream has (docs/egress.md). What may be called are its operations: each is one method and path,
# and what is in the path, the query and the JSON body are the arguments that policy sees.
# [service.payments]
# url = "https://payments.example.com/v1"   # where its paths start; the only host it is sent to
# environment = "dev"            # dev, staging or prod
# trusted = false                # may its answers be believed?
# private = false                # true lets agents reach an address of your own network there
# headers = {}                   # sent with every request: X-Api-Version = "3"
# timeout_seconds = 60           # the longest it may be silent within a call
# ca_file = "corp-ca.pem"        # who may have signed its certificate, in place of the system's
# openapi = "payments.yaml"      # an OpenAPI 3 document, JSON or YAML, that says what may be called
# operations = ["orders/get"]    # of the document, by operationId; without this line all of it
#
# Example: operations in your own words, beside the document's or in its place.
# [[service.payments.operation]]
# name = "refund"                # as mandates and policy call it: payments/refund
# method = "POST"                # GET, HEAD, POST, PUT, PATCH or DELETE
# path = "/orders/{order}/refunds"   # a parameter is a whole segment
# query = []                     # the names that the query may hold
# body = "json"                  # an object, "value" (any JSON, as the argument `body`) or "none"
# media = "application/json"     # the only content type of the body
# description = ""               # for people
#
# Example: what you know of an operation, as of an upstream's tool above.
# [service.payments.tool.refund]
# side_effects = true            # does it change anything? true, unless you say not
#
# Example: its credential, as an upstream's above; it goes into a header or into `tls`.
# [service.payments.credential]
# broker = "crm-tokens"          # which of the brokers mints it
# header = { Authorization = "Bearer {token}" }   # where it goes

# Example: agents told by what the kernel says of their process, besides those started by
# `remit run`. All selectors must hold. Interpreters share an executable: prefer `remit run` for
# scripts.
# [[workload]]
# agent = "reporter"             # its registered name; below, what has to hold of its process
# selectors = ["unix:uid:1001", "unix:path:/usr/local/bin/reporter"]

# Example: tokens of your identity provider, or of a platform that runs agents. What no rule maps is
# refused.
#
# [[issuer]]
# issuer = "https://login.example.com"  # its keys are found from here
# audience = "remit"                    # whom its tokens have to be made out for
# [[issuer.rule]]
# claims = { email = "ada@example.com" }  # all of them have to match
# person = "user:ada@example.com"       # or: agent = "reporter"
# roles = ["operator", "manager"]   # operator may change agents and the catalogue

# Example: other trust domains whose agents may come.
#
# [[federate]]
# trust_domain = "partner.example"      # their identities start with spiffe://partner.example/
# bundle = "https://spiffe.partner.example/bundle"   # or a file

# Example: the key that signs the log, in a PKCS#11 token, by its URI (RFC 7512); it wants
# pip install 'remit[pkcs11]'. Or in AWS KMS, with remit[aws]:
# "awskms:///arn:aws:kms:eu-central-1:111122223333:alias/remit-log". Without this block it is a file
# of the state folder. A log's name and its key belong together, so decide before the first start:
# docs/operate/keys-and-backup.md.
# [keys]
# log = "pkcs11:token=remit;object=log?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/remit/pin"   # made by: remit keys make log

[policy]
# A folder of your own *.cedar and templates/*.toml, reloaded when it changes. Without it the
# default bundle decides; `templates` adds your mandate templates to it.
# Example: without them there is no template, so that no task can be opened.
# bundle = "policy"
# templates = "templates"

[approvals]
# May the person a task is for, or who opened it, approve its calls? Then nobody else has to look.
# self_approval = false
# expires_seconds = 900          # from when it is asked: to decide it, and to use it

[delegation]
# An agent may give another a part of its task (docs/mandates.md). How many times over: an agent that
# got a part can pass a part of it on, and every step is one more mandate that each call is held
# against. 0 lets nobody delegate.
# depth = 4
# How many open tasks there may be below any one task, all its descendants together.
# tasks = 32

[leaks]
# A credential that Remit minted is always taken out of what agents get to see. "true" looks for
# other people's credentials too, with a maintained set of rules: pip install 'remit[leaks]'
# rules = false

[leases]
# How long a target may take to take a credential back, each time it is asked; past it, it is asked
# again later. A call waits for it no longer than `settle_seconds` below.
# revoke_seconds = 10
# How long after it was asked for a mint whose answer is lost may still land at the target: once more
# it is revoked then. A slow target wants more; below `issue_seconds` it is refused.
# quarantine_seconds = 30

[limits]
# How long each step of a call may take; then the call is refused.
# identify_seconds = 10          # who asks
# decide_seconds = 2             # may they
# issue_seconds = 15             # with which credential
# settle_seconds = 30            # and its revocation, which is tried again later
# How long a call waits for a disk that neither writes nor fails. Then it is refused, and so is
# every other until the disk answers.
# durable_seconds = 10
# How long the public log may lag behind the records before calls are refused. The records are
# durable meanwhile; /readyz tells at once.
# publish_grace_seconds = 30
# body_bytes = 4194304           # the longest request that is read
# connections = 512              # how many may be open at the port; one more is told so (503)
"""
