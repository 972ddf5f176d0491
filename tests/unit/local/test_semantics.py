"""What workflows in GitHub's spelling mean, on the embedded engine with a real worker."""

import base64
import textwrap

import pytest

from headrace.errors import NotFound
from headrace.language import compile_workflow
from headrace.local import run


def plan(text, files=None):
    def load(name):
        if files is None or name not in files:
            raise NotFound(f"no file {name}")
        return textwrap.dedent(files[name])

    return compile_workflow(textwrap.dedent(text), file="w.yaml", load=load)


def ran(text, files=None, *, state="COMPLETED", **options):
    view = run(plan(text, files), **options)
    assert view.state == state, (view.reason, view.steps)
    return view


def step(view, path):
    return next(found for found in view.steps if found.path == path)


def out(view, path):
    return step(view, path).outputs["stdout"].strip()


def states(view):
    return {found.path: found.state for found in view.steps if found.kind == "task"}


CALLED = """
    on:
      workflow_call:
        inputs:
          who: {type: string, required: true}
          times: {type: number, default: 2}
          loud: {type: boolean, default: false}
        outputs:
          said: {value: "${{ jobs.say.outputs.said }} (${{ jobs.say.result }})"}
    env: {INNER: inner}
    jobs:
      ready:
        steps: [{run: "true"}]
      say:
        needs: ready
        outputs: {said: "${{ steps.s.outputs.said }}"}
        steps:
          - id: s
            run: |
              said="${{ inputs.who }} x${{ inputs.times }} ${{ inputs.loud }}"
              echo "said=$said" >> $GITHUB_OUTPUT
              echo "[$OUTER][$INNER][${{ env.OUTER }}][${{ toJSON(matrix) }}][${{ github.job }}]"
"""


def test_a_called_workflow_has_inputs_env_and_outputs_of_its_own() -> None:
    view = ran(
        """
        on: {workflow_dispatch: {inputs: {who: {type: string}}}}
        env: {OUTER: outer}
        jobs:
          first:
            outputs: {n: "3"}
            steps: [{run: "true"}]
          call:
            needs: first
            uses: ./parts/say.yaml
            with: {who: "${{ inputs.who }}", times: "${{ needs.first.outputs.n }}"}
          last:
            needs: call
            steps: [{id: e, run: "echo '${{ needs.call.outputs.said }}'"}]
        """,
        {"parts/say.yaml": CALLED},
        inputs={"who": "Ada"},
    )
    assert out(view, "last/e") == "Ada x3 false (success)"
    assert out(view, "call/say/s") == "[][inner][][{}][say]"
    assert step(view, "call").outputs == {"said": "Ada x3 false (success)"}


def test_a_call_in_a_matrix_merges_its_outputs() -> None:
    view = ran(
        """
        jobs:
          call:
            strategy: {matrix: {who: [a, b]}}
            uses: ./say.yaml
            with: {who: "${{ matrix.who }}", loud: true}
          last:
            needs: call
            steps: [{id: e, run: "echo '${{ needs.call.outputs.said }}'"}]
        """,
        {"say.yaml": CALLED},
    )
    assert out(view, "last/e") == "b x2 true (success)"
    assert out(view, "call[a]/say/s") == "[][inner][][{}][say]"


def test_bad_inputs_fail_the_call_by_name() -> None:
    view = ran(
        """
        on: {workflow_dispatch: {inputs: {n: {type: string}}}}
        jobs: {call: {uses: ./say.yaml, with: {who: a, times: "${{ inputs.n }}"}}}
        """,
        {"say.yaml": CALLED},
        inputs={"n": "many"},
        state="FAILED",
    )
    assert "call: invalid-input: input 'times' must be a number" in view.reason


def test_a_failed_call_fails_what_needs_it() -> None:
    files = {"c.yaml": "on: workflow_call\njobs: {x: {steps: [{id: s, run: exit 1}]}}"}
    text = """
        jobs:
          call: {uses: ./c.yaml}
          skipped: {needs: call, steps: [{id: s, run: "true"}]}
          told: {needs: call, if: failure(), steps: [{id: s, run: "echo ${{ needs.call.result }}"}]}
        """
    view = ran(text, files, state="FAILED")
    assert states(view) == {
        "call/x/s": "FAILED", "skipped/s": "SKIPPED", "told/s": "COMPLETED"
    }  # fmt: skip
    assert out(view, "told/s") == "failure"


def test_secrets_reach_a_called_workflow_only_by_name(monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_SECRET_PROD", "prodprod")
    monkeypatch.setenv("HEADRACE_SECRET_OTHER", "otherother")
    called = """
        on: {workflow_call: {secrets: {TOKEN: {}}}}
        jobs:
          x:
            steps:
              - id: s
                env: {T: "${{ secrets.TOKEN }}", O: "${{ secrets.OTHER }}"}
                run: echo "${#T} ${#O} $T"
    """
    text = """
        jobs:
          named: {uses: ./c.yaml, secrets: {TOKEN: "x-${{ secrets.PROD }}-${{ github.run_id }}"}}
          all: {uses: ./c.yaml, secrets: inherit}
          none: {uses: ./c.yaml}
        """
    view = ran(text, {"c.yaml": called}, run_id="r1")
    assert out(view, "named/x/s") == "13 0 ***"
    assert out(view, "all/x/s") == "0 10"
    assert out(view, "none/x/s") == "0 0"
    assert "prodprod" not in repr(view)


def test_calls_three_deep() -> None:
    files = {
        "a.yaml": """
            on:
              workflow_call:
                inputs: {x: {type: string}}
                outputs: {o: {value: "${{ jobs.b.outputs.o }}!"}}
            jobs: {b: {uses: ./b.yaml, with: {x: "${{ inputs.x }}a"}}}
        """,
        "b.yaml": """
            on:
              workflow_call:
                inputs: {x: {type: string}}
                outputs: {o: {value: "${{ jobs.c.outputs.v }}"}}
            jobs:
              c:
                outputs: {v: "${{ steps.s.outputs.stdout }}"}
                steps: [{id: s, run: "printf %s ${{ inputs.x }}b"}]
        """,
    }  # fmt: skip
    text = """
        jobs:
          top: {uses: ./a.yaml, with: {x: "${{ vars.start }}"}}
          end: {needs: top, steps: [{id: s, run: "printf %s ${{ needs.top.outputs.o }}"}]}
        vars: {start: "-"}
    """
    assert out(ran(text, files), "end/s") == "-ab!"


def test_a_workflow_that_can_be_called_gives_the_same_outputs_when_it_is_run() -> None:
    view = ran(CALLED, inputs={"who": "me"})
    assert view.output == {"said": "me x2 false (success)"}


# -- conditions that only the worker can evaluate ---------------------------------------------


def test_conditions_over_the_runner_and_its_files() -> None:
    view = ran(
        """
        jobs:
          j:
            steps:
              - {id: linux, if: "runner.os == 'Linux' || runner.os == 'macOS'", run: "touch a.lock"}
              - {id: windows, if: "runner.os == 'Windows'", run: "true"}
              - {id: has, if: "hashFiles('*.lock') != ''", run: "echo ${{ hashFiles('*.lock') }}"}
              - {id: hasnot, if: "hashFiles('*.none') != ''", run: "true"}
              - {id: seen, run: "echo ${{ steps.windows.outcome }} ${{ steps.has.outcome }}"}
              - {id: fails, run: exit 1, continue-on-error: true}
              - {id: later, if: "failure() && runner.os != ''", run: "true"}
              - {id: always, if: "always() && runner.os != ''", run: "true"}
        """
    )
    assert states(view) == {
        "j/linux": "COMPLETED", "j/windows": "SKIPPED", "j/has": "COMPLETED",
        "j/hasnot": "SKIPPED", "j/seen": "COMPLETED", "j/fails": "FAILED", "j/later": "SKIPPED",
        "j/always": "COMPLETED",
    }  # fmt: skip
    assert len(out(view, "j/has")) == 64
    assert out(view, "j/seen") == "skipped success"
    assert step(view, "j/windows").reason == "condition"


def test_a_job_of_skipped_steps_is_a_success() -> None:
    text = "jobs: {j: {steps: [{id: s, if: \"runner.os == 'Plan9'\", run: 'true'}]}}"
    assert states(ran(text)) == {"j/s": "SKIPPED"}


def test_a_retry_does_not_ask_the_condition_again() -> None:
    view = ran(
        """
        jobs:
          j:
            steps:
              - id: s
                if: hashFiles('mark') == ''
                retry: {max-attempts: 2, initial: 1ms}
                run: test -e mark || { touch mark; exit 1; }
        """
    )
    assert (states(view), step(view, "j/s").attempt) == ({"j/s": "COMPLETED"}, 2)


def test_conditions_on_an_environment_made_of_secrets(monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_SECRET_HAVE", "something")
    view = ran(
        """
        env: {HAVE: "${{ secrets.HAVE }}", NOT: "${{ secrets.NOT }}", PLAIN: p}
        jobs:
          j:
            steps:
              - {id: have, if: "env.HAVE != ''", run: "echo ${{ env.HAVE }}-${{ env.PLAIN }}"}
              - {id: not, if: env.NOT, run: "true"}
              - {id: plain, if: "env.PLAIN == 'p'", run: "true"}
              - id: own
                env: {OWN: "${{ env.HAVE }}+${{ env.PLAIN }}"}
                run: echo "${#OWN} ${{ env.OWN }}"
        """
    )
    assert states(view) == {
        "j/have": "COMPLETED", "j/not": "SKIPPED", "j/plain": "COMPLETED", "j/own": "COMPLETED",
    }  # fmt: skip
    assert out(view, "j/have") == "***-p"
    assert out(view, "j/own") == "11 ***+p"


# -- the environment ------------------------------------------------------------------------------


def test_a_step_sees_its_own_env_in_expressions() -> None:
    view = ran(
        """
        env: {A: root}
        jobs:
          j:
            env: {B: job}
            steps:
              - id: s
                env: {A: "own-${{ env.A }}", C: "${{ env.B }}"}
                if: env.C == 'job'
                run: echo ${{ env.A }} $A ${{ env.C }}
              - {id: t, run: "echo ${{ env.A }} ${{ env.C }}"}
        """
    )
    assert out(view, "j/s") == "own-root own-root job"
    assert out(view, "j/t") == "root"


def test_what_a_step_adds_is_data_and_never_evaluated(monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_SECRET_T", "hunter2hunter2")
    view = ran(
        """
        env: {X: first}
        jobs:
          j:
            env: {Y: second}
            steps:
              - run: |
                  echo 'X=$''{{ secrets.T }}' >> $GITHUB_ENV
                  echo 'Y=$''{{ 1 }}' >> $GITHUB_ENV
              - {id: s, env: {Z: own}, run: 'printf "%s|%s|%s" "$X" "$Y" "$Z" | base64 -w0'}
              - {id: e, env: {Y: mine}, run: "echo $Y"}
        """.replace("$''{{", "$' '{{").replace("' '", "''")
    )
    assert base64.b64decode(out(view, "j/s")).decode() == "${{ secrets.T }}|${{ 1 }}|own"
    assert out(view, "j/e") == "mine"


def test_paths_that_were_added_last_come_first() -> None:
    view = ran(
        """
        jobs:
          j:
            steps:
              - {run: 'printf "/one\\n/two\\n" >> $GITHUB_PATH'}
              - {run: "echo /three >> $GITHUB_PATH"}
              - {id: s, run: 'echo "$PATH" | cut -d: -f1-3'}
        """
    )
    assert out(view, "j/s") == "/three:/two:/one"


# -- jobs and matrices ----------------------------------------------------------------------------


def test_labels_from_json() -> None:
    view = ran(
        """
        jobs:
          j:
            runs-on: ${{ fromJSON('["a", "b"]') }}
            steps: [{id: s, run: "true"}]
        """
    )
    assert states(view) == {"j/s": "COMPLETED"}


def test_names_of_runs_and_steps_are_evaluated() -> None:
    view = ran(
        """
        run-name: Deploy ${{ inputs.to }}
        on: {workflow_dispatch: {inputs: {to: {type: string}}}}
        jobs:
          j:
            name: Leg ${{ matrix.x }}
            strategy: {matrix: {x: [1]}}
            steps:
              - id: s
                name: Step ${{ matrix.x }} of ${{ github.name }}
                run: |
                  echo ::error file=a.py,line=3::bad
                  echo '# s' >> $GITHUB_STEP_SUMMARY
              - {id: t, name: "On ${{ runner.os }}", run: "true"}
        """,
        inputs={"to": "prod"},
    )
    assert view.name == "Deploy prod"
    found = step(view, "j[1]/s")
    assert (found.name, step(view, "j[1]").name) == ("Step 1 of Deploy prod", "Leg 1")
    assert step(view, "j[1]/t").name == "On ${{ runner.os }}"
    assert found.annotations == [{"level": "error", "message": "bad", "file": "a.py", "line": 3}]
    assert found.summary == "# s\n"


def test_outcome_and_conclusion() -> None:
    view = ran(
        """
        jobs:
          j:
            steps:
              - {id: f, run: exit 1, continue-on-error: true}
              - id: s
                run: echo ${{ steps.f.outcome }} ${{ steps.f.conclusion }} ${{ job.status }}
          k: {needs: j, steps: [{id: s, run: "echo ${{ needs.j.result }}"}]}
          bad: {continue-on-error: "${{ 1 == 1 }}", steps: [{run: exit 1}]}
          after: {needs: bad, steps: [{id: s, run: "echo ${{ needs.bad.result }}"}]}
        """
    )
    assert out(view, "j/s") == "failure success success"
    assert (out(view, "k/s"), out(view, "after/s")) == ("success", "success")
    assert (step(view, "j/f").outcome, step(view, "j/f").conclusion) == ("failure", "success")


def test_one_tolerated_leg_does_not_stop_the_others() -> None:
    view = ran(
        """
        jobs:
          j:
            continue-on-error: ${{ matrix.experimental }}
            strategy:
              max-parallel: 1
              matrix: {experimental: [true, false]}
            steps: [{id: s, run: "test ${{ matrix.experimental }} = false"}]
        """
    )
    assert states(view) == {"j[true]/s": "FAILED", "j[false]/s": "COMPLETED"}


def test_the_strategy_context() -> None:
    view = ran(
        """
        jobs:
          j:
            strategy:
              fail-fast: ${{ 1 == 2 }}
              max-parallel: ${{ 1 }}
              matrix: {x: [a, b]}
            steps:
              - id: s
                run: |
                  echo ${{ strategy.job-index }}/${{ strategy.job-total }} \
                    ${{ strategy.fail-fast }} ${{ strategy.max-parallel }}
          k: {steps: [{id: s, run: "echo ${{ strategy.job-index }}/${{ strategy.job-total }}"}]}
        """
    )
    assert out(view, "j[b]/s") == "1/2 false 1"
    assert out(view, "k/s") == "0/1"


@pytest.mark.parametrize(
    ("matrix", "legs"),
    [
        ("{a: [1, true], exclude: [{a: 1}]}", ["true"]),
        ("{a: [1, '1'], exclude: [{a: '1'}]}", ["1"]),
        ("{a: [x], include: [{a: x, b: 1}, {a: y}, {b: 2}]}", ["x,2", "y"]),
    ],
)
def test_matrix_values_are_compared_as_what_they_are(matrix, legs) -> None:
    view = ran(f"jobs: {{j: {{strategy: {{matrix: {matrix}}}, steps: [{{id: s, run: 'true'}}]}}}}")
    assert [path.partition("[")[2].partition("]")[0] for path in states(view)] == legs


def test_the_whole_chain_of_needs_counts_for_success() -> None:
    """As GitHub documents it: a skip or failure applies to all jobs behind it in the chain."""
    view = ran(
        """
        jobs:
          a: {if: "false", steps: [{id: s, run: "true"}]}
          b: {needs: a, if: always(), steps: [{id: s, run: "true"}]}
          c: {needs: b, steps: [{id: s, run: "true"}]}
          d:
            needs: b
            if: always() && needs.b.result == 'success'
            steps: [{id: s, run: "true"}]
        """
    )
    assert states(view) == {
        "a/s": "SKIPPED", "b/s": "COMPLETED", "c/s": "SKIPPED", "d/s": "COMPLETED"
    }  # fmt: skip
