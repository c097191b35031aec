"""Each row of the table in docs/failure-modes.md has tests over HTTP, and the tests that are named here exist."""

import re

from tests.support.backing_servers import ROOT

TESTS = {
    "the disk is full": ["test_unwritable_disk_rejects_writes_and_loses_nothing"],
    "the service, or a worker, starts": [
        "test_service_starts_on_a_full_disk_and_serves_reads",
        "test_workers_start_on_a_full_disk_and_serve_reads",
        "test_fence_is_void_until_the_start_has_written",
    ],
    "the disk rejects writes": ["test_unwritable_disk_rejects_writes_and_loses_nothing"],
    "another program, or a worker that is suspended": ["test_lock_of_another_program_is_reported_until_its_end"],
    "the SQLite file, its": [
        "test_misplaced_file_stops_writes_until_it_is_back",
        "test_replaced_files_are_refused_while_processes_use_them",
    ],
    "with `--workers`: the SQLite file": ["test_new_workers_never_create_a_store_that_was_moved"],
    "the lock file of the SQLite file": ["test_cache_is_used_again_when_the_lock_file_is_back"],
    "MongoDB does not answer": [
        "test_each_worker_logs_an_outage_of_the_store_once",
        "test_cached_record_without_mongodb_depends_on_redis",
    ],
    "MongoDB answers each command late": [
        "test_slow_mongodb_delays_events_and_loses_none",
        "test_operation_on_many_documents_reads_one_reply",
    ],
    "MongoDB does not take the events of the log": ["test_writes_succeed_until_the_outbox_is_full"],
    "the event outbox in a MongoDB document": ["test_invalid_outbox_stops_only_its_own_events"],
    "a MongoDB document of the event log": ["test_feed_continues_after_a_damaged_event"],
    "the clock of the host": ["test_service_with_a_wrong_clock_is_degraded"],
    "the host of a process is suspended": [
        "test_revoked_guid_is_not_served_after_a_suspension",
        "test_key_that_expired_during_a_suspension_is_rejected",
        "test_batch_ends_with_its_claim_in_a_suspension",
    ],
    "Redis does not answer": ["test_service_without_redis_is_degraded_and_still_serves"],
    "a page of the SQLite file is damaged": [
        "test_damaged_page_is_reported_and_other_pages_are_served",
        "test_write_to_a_damaged_page_does_not_fail_its_group",
        "test_stream_over_a_damaged_page_does_not_end_regularly",
        "test_damaged_receipts_do_not_prevent_the_start",
        "test_damaged_single_row_prevents_the_start",
    ],
    "a frame of the write-ahead log": ["test_damaged_log_is_reported_and_copied"],
    "a key in an inner page": [
        "test_rows_behind_a_damaged_key_are_salvaged",
        "test_key_out_of_order_is_found",
        "test_service_finds_a_damaged_key_and_is_degraded",
    ],
    "a SQLite row or a MongoDB document": [
        "test_corrupt_row_is_reported_and_others_are_served",
        "test_corrupt_document_is_reported_and_others_are_served",
    ],
    "Redis sends a reply that does not belong": [
        "test_wrong_reply_breaks_the_link_and_the_store_answers",
        "test_wrong_count_makes_the_counters_unavailable",
    ],
    "a value in Redis": ["test_corrupt_cache_value_is_removed_and_the_store_is_read"],
    "the store does not answer while streams": ["test_streams_survive_an_outage_of_the_store"],
    "the event log has reached its size": ["test_small_log_loses_old_events_and_rejects_no_write"],
    "an entry of the event log of a SQLite store": ["test_feed_continues_after_a_damaged_event"],
    "the archive of the event log of a SQLite store": ["test_damaged_archive_stops_neither_trim_nor_writes"],
    "a receipt of an": ["test_corrupt_receipt_is_reported_and_other_keys_are_served"],
    "the log cannot be written": ["test_unwritable_log_does_not_prevent_responses"],
    "with `--workers`: the temporary folder": ["test_workers_start_and_serve_without_the_metrics_folder"],
}
"""The tests of each row, by the start of its text, in the order of the table."""


def test_each_row_of_the_failure_modes_has_tests() -> None:
    text = (ROOT / "docs" / "failure-modes.md").read_text(encoding="utf-8")
    table = text.partition("| fault | reads |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (?!-)(.*?) \|", table.partition("\n")[2], re.MULTILINE)

    assert len(rows) == len(TESTS)
    assert [(row, begin) for row, begin in zip(rows, TESTS, strict=True) if not row.startswith(begin)] == []


def test_tests_of_the_failure_modes_exist() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

    assert [name for names in TESTS.values() for name in names if f"def {name}(" not in sources] == []
