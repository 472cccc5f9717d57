"""The vocabulary of the demo data: people, services, conversations, tickets. Slots: {service}, {person}, {n}."""

from __future__ import annotations

from typing import Any, NamedTuple

TEAMS = (
    *("Payments", "Search", "Onboarding", "Logistics", "Mobile", "Data Platform", "Identity", "Support Tools"),
    *("Billing", "Catalogue", "Notifications", "Reporting", "Fulfilment", "Growth", "Site Reliability", "Partner API"),
)
PEOPLE = (
    *("Ingrid Solberg", "Mateo Álvarez", "Priya Nair", "Jonas Weber", "Aiko Tanaka", "Chloé Martin", "Samuel Okafor"),
    *("Lena Kowalska", "Tomás Silva", "Nadia Haddad", "Erik Lindqvist", "Grace Mbeki", "Yusuf Demir", "Hannah Price"),
)
SERVICES = (
    *("checkout-api", "billing-worker", "search-indexer", "auth-gateway", "invoice-renderer", "stock-sync"),
    *("mail-dispatcher", "mobile-bff", "report-builder", "webhook-relay", "image-resizer", "price-engine"),
)
AGENTS = ("claude-code", "codex", "gemini-cli")
LABELS = ("bug", "performance", "security", "tech-debt", "customer", "docs", "flaky-test")


class Topic(NamedTuple):
    """A conversation: what is asked, the tool that helps, what it finds, the answer."""

    title: str
    ask: str
    tool: str
    arguments: dict[str, str]
    result: Any
    answer: str


TOPICS = (
    Topic(
        "Why is {service} slow on Monday mornings?",
        "Since two weeks the p95 of {service} triples between 08:00 and 09:00 on Mondays. Where would you look first?",
        "logs.search",
        {"query": "service={service} duration_ms>2000", "since": "7d"},
        {"hits": 412, "top": "POST /orders waits for the connection pool", "p95_ms": 2840},
        "Nearly all slow requests wait for a database connection: the weekly export opens {n} of them at 08:00 "
        "and keeps them while it renders. Give the export a pool of its own; until then, start it at 05:00.",
    ),
    Topic(
        "Review the retry logic of {service}",
        "Can you look at the retry logic of {service}? {person} saw duplicate charges after the last incident.",
        "code.search",
        {"pattern": "retry\\(", "path": "services/{service}"},
        {"files": ["client.py", "worker.py"], "matches": 7},
        "worker.py retries a POST without an idempotency key, so a time-out after the commit charges twice. Send the "
        "order's id as the key and treat 409 as success. I can prepare the change with a test for the time-out.",
    ),
    Topic(
        "Which customers are affected by the rounding bug?",
        "We rounded VAT down on invoices from {service}. How many customers are affected, and by how much?",
        "db.query",
        {"sql": "SELECT count(DISTINCT customer_id), sum(difference) FROM vat_corrections"},
        [{"customers": 318, "sum": "1204.55"}],
        "318 customers, 1,204.55 EUR in all; nobody by more than 11.20 EUR. The list is in vat_corrections, ready for "
        "the credit notes. Finance ({person}) should decide whether amounts below 1 EUR are paid out.",
    ),
    Topic(
        "Is the release branch of {service} green?",
        "Is release/{n} of {service} green? I would like to tag it before lunch.",
        "ci.status",
        {"branch": "release/{n}"},
        {"state": "failed", "job": "integration", "test": "test_refund_twice", "runs": 3},
        "Not yet: the integration job failed in 1 of 3 runs, each time in test_refund_twice. It waits a fixed 200 ms "
        "instead of the event. I would fix the test first; the other 1,148 tests pass.",
    ),
    Topic(
        "How do we rotate the signing keys?",
        "What is our procedure to rotate the signing keys of {service}? Audit asks for it until Friday.",
        "docs.search",
        {"query": "rotate signing keys {service}"},
        [{"page": "Runbooks / Key rotation", "updated": "2026-03-02", "owner": "{person}"}],
        "The runbook has five steps: publish the new key, wait for the caches (15 minutes), sign with it, watch the "
        "rejects, retire the old one after 30 days. It does not say who approves; ask {person} to add that.",
    ),
    Topic(
        "Disk of the staging host fills up",
        "The staging host of {service} is at 9{n}% disk again. What is eating it?",
        "shell.run",
        {"command": "du -xh --max-depth=2 /var | sort -h | tail -5"},
        {"output": "1.2G /var/cache\n3.9G /var/log\n61G /var/lib/docker", "exit_code": 0},
        "61 GB are unused images under /var/lib/docker: every deploy pulls one and nothing prunes them. A weekly "
        "`docker image prune -a --filter until=168h` keeps the last week. Shall I open a ticket for the cron job?",
    ),
    Topic(
        "Plan the move of {service} to PostgreSQL 18",
        "What do we have to check before {service} moves from PostgreSQL 15 to 18?",
        "code.search",
        {"pattern": "CREATE EXTENSION|md5", "path": "services/{service}/migrations"},
        {"files": ["0001_init.sql", "0042_trgm.sql"], "matches": 3},
        "Three things: the md5 passwords have to become scram before the upgrade, pg_trgm's indexes should be rebuilt, "
        "and the replica needs its slot again. With pg_upgrade --link I expect {n} minutes of read-only time.",
    ),
    Topic(
        "Summarise the support tickets about {service}",
        "Please summarise what customers wrote about {service} this week; three points are enough.",
        "db.query",
        {"sql": "SELECT subject, body FROM support WHERE tag = '{service}' AND week = current_week()"},
        [{"rows": 57}],
        "1. Confirmation mails arrive up to {n} minutes late (31 tickets). 2. The German invoice says 'Quantity' (9). "
        "3. Exports above 10,000 lines end without a message (6). The first one has a workaround: resend by hand.",
    ),
    Topic(
        "A test of {service} fails only in CI",
        "test_timezones of {service} passes here and fails in CI. Any idea?",
        "shell.run",
        {"command": "TZ=UTC pytest tests/test_timezones.py -q"},
        {"output": "1 failed, {n} passed", "exit_code": 1},
        "It depends on the machine's time zone: with TZ=UTC it fails here too. parse_day() makes a naive datetime; "
        "give it the shop's zone. One line in calendar.py, and the test should set TZ itself.",
    ),
)

FOLLOW_UPS = (
    ("Who should know about this?", "{person}, who is on call this week, and the channel #{service}."),
    ("How long will it take?", "About {n} minutes for the change, and a day until it has gone through staging."),
    ("Can you draft the ticket?", "Done: title, cause, steps and an acceptance test. I labelled it for {service}."),
    ("What could go wrong?", "A roll-back would leave both versions running; keep the old column until next week."),
    ("Show me the numbers again, please.", "Before: 2,840 ms at p95. With the change on staging: 3{n}0 ms."),
    ("Is there a cheaper way?", "Yes: cache the lookup for {n} seconds. It hides the cause but needs no release."),
    ("Did we have this before?", "Twice, in March and in June; {person} closed both without finding the cause."),
    ("Thanks, that is all.", "Glad to help. I noted the decision in the ticket so that {person} finds it."),
)

SYSTEM = "You help the {team} team to run its services. Be brief, say what you checked, and never guess numbers."

#: Tickets: title, overview, and the steps to take.
TICKETS = (
    (
        "Confirmation mails arrive late",
        "Mails of {service} wait behind the newsletter in one queue; {n} customers complained.",
        ("Measure the queue per kind", "Give confirmations a queue of their own", "Alert above two minutes"),
    ),
    (
        "Duplicate charge after a time-out",
        "A retry of {service} charges twice when the first request was committed. Reported by {person}.",
        ("Write a test that times out after the commit", "Send an idempotency key", "Refund the affected orders"),
    ),
    (
        "Export of more than 10,000 lines ends silently",
        "The worker is killed for its memory and nobody is told.",
        ("Stream the lines", "Report a failure to the user", "Load test with 500,000 lines", "Document the limit"),
    ),
    (
        "Rate limit the public search",
        "One partner sends {n} requests a second and slows down all others.",
        ("Agree on the limits with {person}", "Token bucket at the gateway", "Return Retry-After", "Dashboard"),
    ),
    (
        "Rotate the signing keys",
        "Audit asks for a rotation each year; the last one was by hand.",
        ("Publish two keys at once", "Automate the switch", "Rehearse on staging"),
    ),
    (
        "Flaky test: test_refund_twice",
        "Fails in about one of {n} runs; it sleeps instead of waiting for the event.",
        ("Wait for the event", "Run it 500 times in CI"),
    ),
    (
        "Upgrade to PostgreSQL 18",
        "Version 15 leaves support next year. Read-only time must stay below 15 minutes.",
        ("Inventory of extensions", "Move md5 passwords to scram", "Rehearse pg_upgrade", "Switch over", "Clean up"),
    ),
    (
        "Accessibility of the checkout form",
        "Screen readers do not announce errors. {person} has the report of the testers.",
        ("Label the fields", "Announce errors", "Test with NVDA and VoiceOver"),
    ),
    (
        "Log volume doubled",
        "{service} logs every health check since the last release: {n} GB a day.",
        ("Drop health checks", "Sample debug lines", "Check the bill after a week"),
    ),
    (
        "Old images fill the staging disk",
        "Nothing prunes them; the disk was full twice this month.",
        ("Weekly prune", "Alert at 80 percent"),
    ),
)

COMMENTS = (
    "I can reproduce it on staging with the data of last Tuesday.",
    "Moved to this sprint, it blocks the release of {service}.",
    "The first step is merged; {n} customers left to check.",
    "{person}, could you confirm the expected behaviour?",
    "Root cause found: a lock is held while we call the partner's API.",
    "The agent's change passes all tests, but I would like a second pair of eyes on the migration.",
    "Deployed to 10 percent of the traffic, error rate unchanged after {n} minutes.",
    "Closing: no new report since the fix went out.",
)

#: The requests to sessions: title, and the prompts of their tasks.
WORK = (
    (
        "Fix duplicate charges in {service}",
        ("Find where {service} retries a charge", "Add an idempotency key and a failing test first", "Run all tests"),
    ),
    (
        "Speed up the nightly export",
        ("Profile the export with last night's data", "Stream rows instead of loading them", "Compare memory and time"),
    ),
    (
        "Raise test coverage of {service}",
        ("List the modules below 60 percent", "Write tests for the error paths", "Remove tests that assert nothing"),
    ),
    (
        "Upgrade dependencies of {service}",
        ("Which dependencies are outdated or unmaintained?", "Upgrade them one by one", "Note the breaking changes"),
    ),
    (
        "Document the webhook contract",
        ("Collect every event that {service} sends", "Write the reference with an example each", "Check the examples"),
    ),
    (
        "Replace the home-made cache",
        ("Who uses the cache, and how?", "Move callers to the shared cache", "Delete the old module"),
    ),
)

MODULES = (
    *("orders", "refunds", "invoices", "customers", "tax", "exports", "webhooks", "mail", "cache", "search", "limits"),
    *("auth", "audit", "health", "settings", "worker", "scheduler", "storage", "metrics", "templates", "locale"),
)


class Flow(NamedTuple):
    """A workflow: its nodes as (id, kind, what an LLM answers or a tool does)."""

    name: str
    nodes: tuple[tuple[str, str, str], ...]


FLOWS = (
    Flow(
        "Nightly dependency review",
        (
            ("collect", "tool", "{n} dependencies, 4 of them outdated"),
            (
                "assess",
                "llm",
                "Two upgrades are safe; httpx changes its time-out defaults and needs a look at {service}.",
            ),
            ("approve", "approval", "Upgrade the 2 safe dependencies of {service}?"),
            ("patch", "llm", "Raised the two versions and adapted one import in {service}."),
            ("test", "tool", "1,148 passed"),
            ("publish", "tool", "Opened a pull request for {person}"),
        ),
    ),
    Flow(
        "Customer ticket triage",
        (
            ("fetch", "tool", "{n} new tickets"),
            (
                "classify",
                "llm",
                "12 billing, 7 delivery, 3 about {service}; two customers sound as if they will leave.",
            ),
            ("draft", "llm", "Drafted answers for the billing tickets; each names the invoice and the next step."),
            ("review", "approval", "Send {n} drafted answers to customers?"),
            ("send", "tool", "Sent, none bounced"),
        ),
    ),
    Flow(
        "Incident report",
        (
            ("timeline", "tool", "{n} events between 08:02 and 09:14"),
            ("analyse", "llm", "The pool of {service} ran dry when the export started; retries then doubled the load."),
            ("questions", "llm", "Why did the alert wait 20 minutes, and who may stop an export?"),
            ("write", "llm", "Report with summary, timeline, cause, and three actions; {person} owns the first."),
            ("sign-off", "approval", "Publish the incident report about {service}?"),
            ("publish", "tool", "Published in the wiki"),
        ),
    ),
)
