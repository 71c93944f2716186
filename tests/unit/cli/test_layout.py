import pytest

from preceptor.cli.stack.layout import Layout, StackOptions, load_layout, parse_scale, save_options
from preceptor.common.errors import InvalidInput


def test_options_come_back_from_the_home(tmp_path):
    options = StackOptions(policy="rl", scale={"generation": 2, "rollout": 1}, port_base=1000)
    save_options(Layout(tmp_path.resolve(), options))
    assert load_layout(tmp_path) == Layout(tmp_path.resolve(), options)


def test_a_home_without_options_has_no_layout(tmp_path):
    assert load_layout(tmp_path) is None


def test_broken_options_say_what_to_do(tmp_path):
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"stack\.json is not JSON .* delete it"):
        load_layout(tmp_path)


def test_port_base_moves_every_port_but_the_consoles(tmp_path):
    addresses = Layout(tmp_path, StackOptions(port_base=500)).addresses
    assert addresses["generation"].endswith(":7600")
    assert addresses["console"].endswith(":8080")


def test_a_deep_home_still_gets_a_socket_path_that_fits(tmp_path):
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    assert len(str(Layout(deep, StackOptions()).supervisor_socket)) <= 107


@pytest.mark.parametrize("entry", ["generation", "generation=0", "generation=x", "learner=2", "=2"])
def test_a_wrong_scale_names_itself_and_the_stages(entry):
    with pytest.raises(InvalidInput, match=r"generation, rollout"):
        parse_scale((entry,))


def test_scale_is_read_per_stage():
    assert parse_scale(("generation=2", "rollout=3")) == {"generation": 2, "rollout": 3}
