# SPDX-License-Identifier: Apache-2.0
"""The state machine between the panel and the worker, with a client that says what a test wants."""

from __future__ import annotations

import pytest
from DIANetGui.Activity import Activity, Meter
from DIANetGui.Runner import Run, Runner, State

from DIANetLib.errors import BundleError, InputError, WorkerError
from DIANetLib.worker import protocol
from Testing.module.fake_client import HELLO, FakeClient, Later, shared


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture
def later():
    return Later()


@pytest.fixture
def runner(client, later):
    return Runner(client, later)


def begin(runner, take=lambda payload: None, *, files=(), request=None):
    request = request or protocol.Explain("run", "earlier", ("head",))
    runner.start()
    run = Run(request, Meter(("start", "load", "explain", "show")), take, "layers", files)
    runner.begin(run)
    return run


def test_a_run_starts_the_worker_and_waits_for_its_greeting(runner, client):
    begin(runner)
    assert runner.state is State.STARTING
    assert runner.activity.stage == "start"

    client.say(HELLO)

    assert runner.state is State.RUNNING
    assert [type(message) for message in client.sent] == [protocol.Explain]


def test_a_second_run_on_a_warm_worker_is_running_at_once(runner, client):
    begin(runner)
    client.say(HELLO, protocol.Result("run", protocol.Explained(())))

    begin(runner, request=protocol.Explain("second", "earlier", ("head",)))

    assert runner.state is State.RUNNING
    assert client.starts == 1


def test_progress_becomes_an_activity_that_never_runs_backwards(runner, client):
    begin(runner)
    client.say(HELLO)
    seen = []
    runner.addListener(lambda event: seen.append(runner.activity.fraction) if event == "activity" else None)

    for stage, done in (("load", 0), ("load", 1), ("explain", 1), ("load", 0), ("explain", 4)):
        client.say(protocol.Progress("run", stage, done, 4))

    assert seen == sorted(seen)
    assert 0 < seen[-1] < 1


def test_a_result_is_taken_then_told(runner, client):
    taken, told = [], []
    begin(runner, taken.append)
    runner.addListener(told.append)

    client.say(HELLO, protocol.Result("run", protocol.Explained(())))

    assert taken == [protocol.Explained(())]
    assert told[-1] == "layers"
    assert (runner.state, runner.activity, runner.lastOutcome) == (State.IDLE, None, "done")


def test_the_files_of_a_request_are_deleted_at_its_end(runner, client):
    begin(runner, files=(shared("image"),))
    assert client.exchange.deleted == []

    client.say(HELLO, protocol.Cancelled("run"))

    assert client.exchange.deleted == ["image"]


def test_a_failure_of_the_worker_keeps_its_kind_sentence_and_remedy(runner, client):
    begin(runner)
    told = []
    runner.addListener(told.append)

    client.say(HELLO, protocol.Failed("run", "bundle", "The weights are damaged.", "Install it again."))

    assert isinstance(runner.lastError, BundleError)
    assert str(runner.lastError) == "The weights are damaged. Install it again."
    assert "error" in told
    assert runner.lastOutcome == "failed"
    assert "The weights are damaged. Install it again." in runner.log


def test_a_fault_of_the_program_says_where_to_find_more(runner, client):
    begin(runner)

    client.say(HELLO, protocol.Failed("run", "internal", "list index out of range"))

    assert "Copy report" in str(runner.lastError)


@pytest.mark.parametrize("error", [InputError("The grid is odd."), ValueError("odd")])
def test_a_result_that_cannot_be_taken_is_a_failure_with_a_sentence(runner, client, error):
    def refuse(payload):
        raise error

    begin(runner, refuse)
    client.say(HELLO, protocol.Result("run", protocol.Explained(())))

    assert runner.state is State.IDLE
    assert runner.lastOutcome == "failed"
    assert "odd" in str(runner.lastError)


def test_a_second_run_is_refused_while_one_is_going_on(runner, client):
    begin(runner)
    with pytest.raises(InputError, match="A run is going on"):
        begin(runner, request=protocol.Explain("other", "earlier", ("head",)))

    assert [message.id for message in client.sent] == ["run"]


class TestCancelling:
    def test_the_worker_is_asked_first_and_nothing_else_happens_if_it_listens(self, runner, client, later):
        begin(runner)
        client.say(HELLO)
        runner.cancel()
        assert runner.state is State.CANCELLING
        assert runner.activity == Activity("stop")
        assert client.sent[-1].target == "run"

        client.say(protocol.Cancelled("run"))
        later.pass_all()

        assert (runner.state, runner.lastOutcome, runner.lastError) == (State.IDLE, "cancelled", None)
        assert client.ended == []

    def test_a_worker_that_does_not_listen_is_terminated_then_killed(self, runner, client, later):
        begin(runner)
        client.say(HELLO)
        runner.cancel()

        assert later.delays == [2000, 5000]
        later.pass_all()
        assert client.ended == ["terminate", "kill"]

        client.lose("The worker was killed.")
        assert (runner.state, runner.lastOutcome, runner.lastError) == (State.IDLE, "cancelled", None)

    def test_the_end_of_a_later_run_is_not_hastened_by_an_earlier_cancellation(self, runner, client, later):
        begin(runner)
        client.say(HELLO)
        runner.cancel()
        client.say(protocol.Cancelled("run"))
        begin(runner, request=protocol.Explain("second", "earlier", ("head",)))

        later.pass_all()

        assert client.ended == []
        assert runner.state is State.RUNNING

    def test_a_result_that_comes_too_late_is_thrown_away_with_its_files(self, runner, client):
        taken = []
        begin(runner, taken.append)
        client.say(HELLO)
        runner.cancel()

        late = protocol.Explained((protocol.MapFile("gradcam", "head", shared("late")),))
        client.say(protocol.Result("run", late))

        assert taken == []
        assert client.exchange.deleted == ["late"]
        assert runner.lastOutcome == "cancelled"

    def test_two_cancels_send_one(self, runner, client):
        begin(runner)
        client.say(HELLO)
        runner.cancel()
        runner.cancel()

        assert sum(isinstance(message, protocol.Cancel) for message in client.sent) == 1

    def test_progress_that_still_comes_does_not_undo_it(self, runner, client):
        begin(runner)
        client.say(HELLO)
        runner.cancel()
        client.say(protocol.Progress("run", "explain", 1, 4))

        assert runner.state is State.CANCELLING

    def test_while_idle_it_does_nothing(self, runner, client):
        runner.cancel()

        assert client.sent == []
        assert runner.state is State.IDLE


class TestALostWorker:
    def test_the_run_fails_with_a_sentence_and_what_to_do(self, runner, client):
        begin(runner)
        client.say(HELLO)
        client.lose("The worker has ended unexpectedly (signal 9).")

        assert isinstance(runner.lastError, WorkerError)
        assert "signal 9" in str(runner.lastError)
        assert "Nothing in the scene has changed" in str(runner.lastError)
        assert runner.state is State.IDLE

    def test_what_it_had_kept_is_forgotten(self, runner, client):
        forgotten = []
        runner.onForgotten = lambda: forgotten.append(True)
        runner.start()
        client.say(HELLO)
        forgotten.clear()

        client.lose("Gone.")

        assert forgotten == [True]
        assert not runner.greeted

    def test_the_next_run_starts_a_new_one(self, runner, client):
        begin(runner)
        client.say(HELLO)
        client.lose("Gone.")

        begin(runner, request=protocol.Explain("second", "earlier", ("head",)))
        client.say(HELLO)

        assert client.starts == 2
        assert runner.state is State.RUNNING

    def test_a_worker_of_another_version_is_ended(self, runner, client):
        begin(runner)
        client.say(protocol.Hello(99, "9.9", 1, "3.12"))

        assert client.ended == ["kill"]
        assert "Install the same version of DIANet in both places" in str(runner.lastError)
        assert runner.state is State.IDLE


class TestQuestionsBesideTheRun:
    def test_are_answered_while_one_is_going_on(self, runner, client):
        begin(runner)
        client.say(HELLO)
        answers = []
        runner.ask(protocol.Doctor("d"), "doctor", answers.append)

        client.say(protocol.Result("d", protocol.DoctorReport("fine", 0)))

        assert answers == [protocol.DoctorReport("fine", 0)]
        assert runner.state is State.RUNNING

    def test_only_the_latest_of_a_kind_counts(self, runner, client):
        runner.start()
        answers = []
        runner.ask(protocol.Review("1", "r"), "review", answers.append)
        runner.ask(protocol.Review("2", "r"), "review", answers.append)

        client.say(protocol.Result("2", protocol.Reviewed("new")))
        client.say(protocol.Result("1", protocol.Reviewed("old")))

        assert answers == [protocol.Reviewed("new")]

    def test_the_files_of_an_answer_that_nobody_waits_for_are_deleted(self, runner, client):
        runner.start()
        stray = protocol.Explained((protocol.MapFile("gradcam", "head", shared("stray")),))

        client.say(protocol.Result("unknown", stray))

        assert client.exchange.deleted == ["stray"]

    def test_a_failed_estimate_bothers_nobody(self, runner, client):
        runner.start()
        runner.ask(protocol.Doctor("e"), "estimate", lambda payload: None)
        told = []
        runner.addListener(told.append)

        client.say(protocol.Failed("e", "bundle", "There is no such model."))

        assert "error" not in told
        assert "There is no such model." in runner.log


def test_a_listener_that_fails_does_not_stop_the_others(runner, client, caplog):
    told = []

    def fail(event):
        raise RuntimeError("a widget was deleted")

    runner.addListener(fail)
    remove = runner.addListener(told.append)

    runner.tell("state")
    remove()
    runner.tell("state")

    assert told == ["state"]
    assert "A listener failed" in caplog.text


def test_waiting_gives_up_after_the_time_that_was_asked_for(runner, client):
    begin(runner)
    with pytest.raises(WorkerError, match=r"not answered within 0\.01 s"):
        runner.wait(0.01)


def test_stopping_ends_the_worker_whatever_goes_on(runner, client):
    begin(runner)
    client.say(HELLO)

    runner.stop()

    assert client.ended == ["stop"]
    assert runner.state is State.IDLE


class TestTimeLeft:
    def test_is_guessed_once_there_is_something_to_guess_from(self):
        now = [0.0]
        meter = Meter(("segment", "explain"), lambda: now[0])
        assert meter.at("segment", 0, 10).secondsLeft is None

        now[0] = 6.0
        half = meter.at("segment", 10, 10)

        assert half.fraction == pytest.approx(0.6)
        assert half.secondsLeft == pytest.approx(4.0)

    def test_an_unexpected_stage_leaves_the_fraction_as_it_was(self):
        meter = Meter(("segment", "explain"))
        meter.at("segment", 5, 10)

        assert meter.at("read", 1, 2).fraction == pytest.approx(0.3)

    def test_follows_what_the_stages_took_before(self):
        now = [0.0]
        meter = Meter(
            ("segment", "restore", "write"), lambda: now[0], seconds={"segment": 1.0, "restore": 9.0}
        )
        now[0] = 2.0

        after_segment = meter.at("segment", 1, 1)

        assert after_segment.fraction == pytest.approx(0.034 / 0.37)
        assert meter.at("restore", 1, 1).fraction == pytest.approx(0.34 / 0.37)
        assert after_segment.secondsLeft == pytest.approx(2.0 * 0.336 / 0.034)
