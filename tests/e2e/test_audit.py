"""The audit of a published line: what holds, and that each forgery is found and named."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from pipeline.audit import audit, dsse, freshness, kept_statements, page, policy
from pipeline.audit.audit import Standing
from pipeline.audit.findings import Result
from pipeline.audit.statement import Kind
from pipeline.core.fs import sha256_of
from pipeline.core.process import run
from pipeline.errors import ExitCode
from pipeline.publish import verify
from pipeline.publish.layout import HOST_KEYS, PUBLISH
from tests.fixtures.browsers import chromium
from tests.fixtures.forged import STRANGERS, Forged, repacked
from tests.fixtures.published import Published
from tests.fixtures.snapshots import changed

pytestmark = pytest.mark.timeout(1200, func_only=True)
STOCK = "kernel:stock"


def test_what_was_published_holds_by_a_policy_of_its_own(published: Published) -> None:
    done = published.shop.inv("audit", "toy", "--policy", published.policy, "--json").json
    assert done["verdict"] == "pass", [row for row in done["findings"] if row["result"] != "pass"]
    checks = {row["check"] for row in done["findings"]}
    wanted = {"signature", "files", "package", "statement", "subject", "source", "patches", "role", "configuration"}
    assert wanted | {"option number", "freshness", "line", "release key", "attestation key"} <= checks


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("development = true", "development = false", "release key"),
        ("attestation = [", f'attestation = ["{"0" * 64}"] # [', "attestation key"),
        ("[lines.toy", "[lines.other", "line: toy"),
        ('"realserver", "stock"]', '"realserver"]', "line: roles"),
        ("option-number = 200", "option-number = 254", "option number: 200"),
        ('"popt_', '"other_', "source: popt_"),
        ("least-sequence = ", "least-sequence = 9", "freshness"),
    ],
)
def test_each_rule_of_a_policy_refuses(forged: Forged, published: Published, old: str, new: str, check: str) -> None:
    rules = forged.repo / "policy.toml"
    text = published.policy.read_text()
    assert old in text
    rules.write_text(text.replace(old, new))
    assert [what for what in forged.failures(rules) if what.startswith(check)]


def test_a_policy_limits_the_days_since_a_snapshot_was_the_latest(
    forged: Forged, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = forged.repo / "policy.toml"
    rules.write_text(published.policy.read_text().replace("[freshness]\n", "[freshness]\nmost-days = 7\n"))
    assert not forged.failures(rules)
    later = time.time() + 8 * freshness.DAY
    monkeypatch.setattr("pipeline.audit.audit.time.time", lambda: later)
    assert "the policy accepts 7 days" in forged.failures(rules)[f"freshness: {forged.latest.name}"]


def test_a_step_of_another_host_counts_by_the_publication_s_word_and_the_key_beside_it(
    forged: Forged, published: Published
) -> None:
    with forged.statement("ipvsadm", STRANGERS):
        pass
    envelope, stranger = forged.envelope("ipvsadm"), forged.attestation(STRANGERS).public
    keys = envelope.parent / HOST_KEYS
    keys.mkdir()
    (keys / "host.pem").write_bytes(stranger.pem)
    name = f"statement: {envelope.name}"
    assert "signed with another key" in forged.failures()[name], "the publication lists another statement"
    with forged.statement(PUBLISH) as statement:
        rows = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        for row in rows:
            if row["name"] == "ipvsadm":
                row["digest"]["sha256"] = sha256_of(envelope)
    assert name not in forged.failures()
    rules = forged.repo / "policy.toml"
    rules.write_text(published.policy.read_text())
    assert "the policy does not accept" in forged.failures(rules)[name]
    rules.write_text(rules.read_text().replace("attestation = [", f'attestation = ["{stranger.id}", '))
    assert name not in forged.failures(rules)
    (keys / "host.pem").unlink()
    assert "signed with another key" in forged.failures()[name]


def test_changes_that_no_commit_has_are_refused_but_where_the_policy_takes_them(
    forged: Forged, published: Published
) -> None:
    with forged.statement("ipvsadm") as statement:
        rows = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        (recipe,) = (row for row in rows if row["annotations"]["kind"] == Kind.RECIPE)
        recipe["digest"], recipe["annotations"]["dirty"] = {"gitCommit": "0" * 40}, True
        recipe["annotations"]["commit"] = "0" * 40
    rules, text = forged.repo / "policy.toml", published.policy.read_text()
    rules.write_text(text.replace("dirty = true\n", ""))
    assert f"recipe: {'0' * 40}" in forged.failures(rules)
    assert f"recipe: {'0' * 40}" not in forged.failures(published.policy)


@pytest.mark.parametrize(
    ("options", "hits", "rule", "subject", "result"),
    [
        ([], 0, "none", "none", Result.PASS),
        ([], 3, "none", "own", Result.FAIL),
        ([], -1, "none", "own", Result.FAIL),  # ccache before 4.0 counts nothing
        ([], 3, "own", "own", Result.PASS),
        ([], 3, "", "own", Result.PASS),
        (["--ccache-remote", "/srv/ccache"], 3, "own", "remote", Result.FAIL),
        (["--ccache-remote=-odd"], 3, "own", "remote", Result.FAIL),
        (["--ccache-remote", "/srv/ccache"], 3, "remote", "remote", Result.PASS),
        (["--ccache-remote", "/srv/ccache"], 3, "", "remote", Result.WARN),
    ],
)
def test_the_policy_says_whose_compiler_cache_may_have_given_object_files(
    forged: Forged, published: Published, options: list[str], hits: int, rule: str, subject: str, result: Result
) -> None:
    for step in {step for row in verify.read_document(forged.latest).packages.values() for step in row.steps}:
        forged.compile(step, options * (step == STOCK), hits * (step == STOCK))
    rules = forged.repo / "policy.toml"
    more = f'compiler-cache = "{rule}"\n' if rule else ""
    rules.write_text(published.policy.read_text().replace("dirty = true\n", f"dirty = true\n{more}"))
    rows = [row for row in forged.examined(rules).audit.findings if row.check == "compiler cache"]
    assert [(row.subject, row.result) for row in rows] == [(subject, result)]
    assert subject == "none" or STOCK in rows[0].reason


def test_without_a_policy_the_audit_tells_what_it_could_not_judge(forged: Forged) -> None:
    warned = {row.check for row in forged.examined().audit.findings if row.result is Result.WARN}
    assert {"release key", "attestation key", "line", "source", "patches"} <= warned
    assert not forged.failures()


def test_a_package_swapped_for_one_that_another_key_signed_is_named(forged: Forged) -> None:
    file = next(path.name for path in forged.latest.glob("stock/ipvsadm-*.rpm"))
    forged.replace_package(file, forged.latest / "stock" / file, STRANGERS)
    failures = forged.failures()
    assert f"files: stock/{file}" in failures
    assert "NOKEY" in failures[f"package: {file}"]


def test_a_snapshot_that_a_stranger_signed_whole_fails_by_the_policy(forged: Forged, published: Published) -> None:
    other = published.policy.read_text()
    key = next(line for line in other.splitlines() if line.startswith("release"))
    rules = forged.repo / "policy.toml"
    rules.write_text(other.replace(key, f'release = ["{"A" * 40}"]'))
    ((what, reason),) = forged.failures(rules).items()
    assert what.startswith("release key: ") and "does not accept" in reason


def test_a_configuration_changed_in_a_package_that_the_accepted_key_signed_is_named(forged: Forged) -> None:
    (kernel,) = forged.latest.glob("stock/kernel-2*.rpm")
    forged.replace_package(kernel.name, repacked(kernel, "CONFIG_IP_VS_TAB_BITS=12", "CONFIG_IP_VS_TAB_BITS=22"))
    forged.publish()
    forged.state_latest()
    failures = forged.failures()
    assert "CONFIG_IP_VS_TAB_BITS=22, stated 12" in failures[f"configuration: {kernel.name}"]
    assert "kernel-stock.intoto.json is not about this package" in failures[f"subject: {kernel.name}"]
    assert not [what for what in failures if what.startswith(("signature", "files", "package"))], "all signed anew"


def test_a_package_that_was_added_or_removed_is_named(forged: Forged) -> None:
    (package,) = forged.latest.glob("stock/ipvsadm-*.rpm")
    package.rename(package.with_name("more.rpm"))
    reason = forged.failures()["files: SHA256SUMS"]
    assert f"missing: stock/{package.name}; unexpected: stock/more.rpm" in reason


def test_an_older_night_that_was_put_back_is_found(forged: Forged, published: Published) -> None:
    before = forged.latest
    newer = before.with_name("0" * 32)
    shutil.copytree(before, newer)
    forged.point_latest(newer.name)
    old = freshness.path_in(forged.repo).read_bytes()
    forged.state_latest()
    forged.point_latest(before.name)
    assert f"the latest is {newer.name}" in forged.failures()[f"freshness: {before.name}"]
    number, _ = freshness.read(freshness.path_in(forged.repo), forged.attestation("own").public.pem)
    freshness.path_in(forged.repo).write_bytes(old)
    rules = forged.repo / "policy.toml"
    lines = published.policy.read_text().splitlines()
    rules.write_text("\n".join(f"least-sequence = {number.sequence}" if "least" in line else line for line in lines))
    assert f"the policy accepts {number.sequence} and above" in forged.failures(rules)[f"freshness: {before.name}"]


def test_a_snapshot_whose_statement_expired_is_found(forged: Forged, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 31 * freshness.DAY
    monkeypatch.setattr("pipeline.audit.audit.time.time", lambda: later)
    assert "expired" in forged.failures()[f"freshness: {forged.latest.name}"]


def test_an_older_snapshot_that_is_named_is_only_told_of(forged: Forged) -> None:
    before = forged.latest
    shutil.copytree(before, before.with_name("0" * 32))
    forged.point_latest("0" * 32)
    forged.state_latest()
    rows = audit.examine(before, policy.load(None), Standing.PUBLISHED).audit.findings
    assert {row.result for row in rows if row.check == "freshness"} == {Result.WARN}


def test_a_held_snapshot_needs_no_statement_that_it_is_the_latest(forged: Forged) -> None:
    freshness.path_in(forged.repo).unlink()
    rows = {standing: audit.examine(forged.latest, policy.load(None), standing).audit for standing in Standing}
    assert {standing for standing, found in rows.items() if found.verdict is Result.FAIL} == {
        Standing.LATEST,
        Standing.PUBLISHED,
    }
    assert "freshness" not in {row.check for row in rows[Standing.HELD].findings}


def test_a_failed_audit_ends_with_its_code_and_a_signed_summary(published: Published, tmp_path: Path) -> None:
    inv, key = published.shop.inv, tmp_path / "key.pem"
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key])
    copied = tmp_path / "toy"
    shutil.copytree(published.repo, copied, symlinks=True)
    words = ("audit", copied / "latest", "--policy", published.policy, "--vsa-key", key, "--vsa")
    inv(*words, tmp_path / "good.json")
    shutil.rmtree(copied / "attestations")
    done = inv(*words, tmp_path / "bad.json", expect=ExitCode.REFUSED)
    assert "FAILED" in done.out
    public = run(["openssl", "pkey", "-in", key, "-pubout"]).out
    assert b'"PASSED"' in dsse.verify((tmp_path / "good.json").read_bytes(), public)
    assert b'"FAILED"' in dsse.verify((tmp_path / "bad.json").read_bytes(), public)


def test_the_documents_commands_of_other_peoples_tools_hold_and_find_a_change(
    forged: Forged, published: Published
) -> None:
    script = published.transcript
    done = run(["bash", "-euxo", "pipefail", "-c", script], cwd=forged.latest, accept=range(256))
    assert done.status == 0, done.error_text
    statements = len(list(forged.envelope("ipvsadm").parent.iterdir()))
    assert done.text.count("Verified OK") == statements
    changed(forged.envelope("ipvsadm"), lambda data: data.replace(b'"payload": "eyJ', b'"payload": "eyI', 1))
    assert run(["bash", "-euo", "pipefail", "-c", script], cwd=forged.latest, accept=range(256)).status != 0


@pytest.mark.parametrize("file", ["README", "SHA256SUMS"])
def test_the_documents_commands_find_a_changed_file(forged: Forged, published: Published, file: str) -> None:
    changed(forged.latest / file, lambda data: data + b"\n")
    assert (
        run(["bash", "-euo", "pipefail", "-c", published.transcript], cwd=forged.latest, accept=range(256)).status != 0
    )


@pytest.fixture(scope="module")
def page_file(published: Published) -> Path:
    file = published.policy.with_name("audit.html")
    published.shop.inv("audit", "toy", "--policy", published.policy, "--html", file)
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_needs_nothing_else_and_fits(browser: Browser, page_file: Path, width: int) -> None:
    shown = browser.new_page(viewport={"width": width, "height": 800}, java_script_enabled=False)
    requests: list[str] = []
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(page_file.as_uri())
    assert requests == [page_file.as_uri()]
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.locator("main > :first-child h1").inner_text().endswith("audit of toy")
    text = shown.locator("main").inner_text()
    for part in ("From source to package", "kernel:director", "Lvs-fullnat-synproxy.tar.gz", "Bill of materials"):
        assert part in text
    assert not shown.locator("#search").is_visible(), "a field that does nothing without a script"
    assert shown.locator("#parts tbody tr").count() > 10


def test_the_pages_search_leaves_the_rows_that_have_the_text(browser: Browser, page_file: Path) -> None:
    shown = browser.new_page()
    shown.goto(page_file.as_uri())
    shown.locator("#search").fill("KEEPALIVED")
    rows = shown.locator("#parts tbody tr:visible").all_inner_texts()
    assert rows and all("keepalived" in row.lower() for row in rows)


def test_what_a_stranger_says_is_text_on_the_page(forged: Forged) -> None:
    with forged.statement("ipvsadm", STRANGERS):
        pass
    with forged.signatures("ipvsadm") as signatures:
        signatures[0]["keyid"] = "<script>alert(1)</script>\x1b[31m"
    text = page.render(forged.examined(), forged.repo / "none")
    assert "&lt;script&gt;alert(1)" in text and "<script>alert" not in text and "\x1b" not in text


@pytest.mark.parametrize(
    ("thing", "back"),
    [
        (
            "lvs",
            ("patch: lvs", "member: lvs-fullnat-synproxy/lvs-", "source: Lvs-fullnat-synproxy.tar.gz", "pinned by: "),
        ),
        ("tcp_opt_add_toa", ("added in: net/netfilter/ipvs/ip_vs_synproxy.c, line", "patch: lvs")),
        ("net/netfilter/ipvs/ip_vs_conn.c", ("compiled as: SHA-256", "hunks: 1 (line", "source: kernel-2.6.32")),
        ("CONFIG_IP_VS_TAB_BITS", ("set by: [[patches.lvs.", "entry: net/netfilter/ipvs/Kconfig: hunk 1", "source: k")),
        (
            "CONFIG_TOA",
            ("set by: [roles.realserver.config]", "set by: the configurations of", "entry: net/toa/Kconfig"),
        ),
        ("/sbin/ipvsadm", ("package: ipvsadm-1.2.1", "built by: ipvsadm", "source: popt")),
        (
            "ip_vs.ko",
            (
                "made of: 13 compiled sources: by the names",
                "source file: net/netfilter/ipvs/ip_vs_conn.c",
                "hunks: 1 (",
                "patch: lvs",
                "member: lvs-fullnat-synproxy/lvs-",
                "source: Lvs-fullnat-synproxy.tar.gz",
            ),
        ),
        (
            "ip_vs_conn_slot",
            ("defined in: /lib/modules/", "source file: net/netfilter/ipvs/ip_vs_conn.c", "hunks: 1 ("),
        ),
    ],
)
def test_a_thing_is_traced_back_to_its_source_and_forward_to_packages(
    published: Published, thing: str, back: tuple[str, ...]
) -> None:
    done = published.shop.inv("trace", "toy", thing, "--json").json
    rows = [f"{link['what']}: {link['text']}" for chain in done["chains"] for link in chain["back"]]
    for beginning in back:
        assert any(row.startswith(beginning) for row in rows), (beginning, rows)
    assert all(chain["forward"] for chain in done["chains"])


def test_a_thing_that_is_not_there_and_a_statement_of_a_stranger_are_no_trace(
    published: Published, forged: Forged
) -> None:
    done = published.shop.inv("trace", "toy", "nothing", expect=ExitCode.USAGE)
    assert "nothing: not in this snapshot" in done.err
    with forged.statement("ipvsadm", STRANGERS):
        pass
    done = published.shop.inv("trace", forged.repo / "latest", "lvs", expect=ExitCode.REFUSED)
    assert "ipvsadm.intoto.json: signed with another key" in done.err


def test_status_verifies_signatures_of_statements_and_what_they_are_about(published: Published, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    for name in ("repo", "steps", "keys"):
        shutil.copytree(published.shop.inv.artifacts / name, artifacts / name, symlinks=True)
    assert not [*kept_statements.of_steps(artifacts, ""), *kept_statements.of_snapshots(artifacts, "toy")]
    (of_step,) = artifacts.glob("steps/toy/ipvsadm/*/statement.intoto.json")
    of_snapshot, missing = (
        next(artifacts.glob(f"repo/toy/attestations/*/{name}.intoto.json")) for name in ("keepalived", "ipvsadm")
    )
    for path in (of_step, of_snapshot, freshness.path_in(artifacts / "repo" / "toy")):
        changed(path, lambda data: data.replace(b'"payload": "eyJ', b'"payload": "eyI', 1))
    missing.unlink()
    assert dict(kept_statements.of_steps(artifacts, "")) == {of_step: "its signature is not over this payload"}
    found = [f"{path.name}: {problem}" for path, problem in kept_statements.of_snapshots(artifacts, "")]
    for text in (
        "keepalived.intoto.json: ",
        "latest.intoto.json: its signature is not",
        "ipvsadm.intoto.json: missing",
    ):
        assert any(text in row for row in found), (text, found)
    shutil.rmtree(artifacts / "keys")
    assert "whose public half is not below keys/" in dict(kept_statements.of_steps(artifacts, ""))[of_step]
    assert not [*kept_statements.of_steps(artifacts, "other"), *kept_statements.of_snapshots(artifacts, "other")]
