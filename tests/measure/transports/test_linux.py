"""What devices tell of themselves, read from texts of theirs."""

import pytest

from spaceevo.errors import TargetError
from spaceevo.measure.transports import DeviceState, _linux
from spaceevo.measure.transports._linux import EnergyCounter, Texts

CPU = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
ZONE = "/sys/class/thermal/thermal_zone{}/temp"
RAPL = "/sys/class/powercap/intel-rapl:"


def test_state_of_a_phone() -> None:
    files = Texts(
        {"/proc/loadavg": "3.20 2.90 2.80 2/1234 5678"}
        | {CPU.format(core): str(1_000_000 + 100_000 * core) for core in range(8)}
        | {ZONE.format(zone): text for zone, text in enumerate(("36100", "41", "-273000", "0", "", "125000000"))}
    )
    assert _linux.state(files, (4, 7)) == DeviceState(3.2, 1550.0, 41.0)
    assert _linux.state(files).frequency_mhz == 1350
    assert _linux.state(files, (9,)).frequency_mhz is None


def test_what_is_not_told_is_none() -> None:
    assert _linux.state(Texts()) == DeviceState()
    assert _linux.state(Texts({CPU.format(0): "<unknown>", ZONE.format(0): "garbage"})) == DeviceState()


def test_a_virtual_machine_tells_its_frequency_otherwise() -> None:
    text = "processor\t: 0\ncpu MHz\t\t: 2000.0\n\nprocessor\t: 1\ncpu MHz\t\t: 3000.5\n"
    assert _linux.state(Texts({"/proc/cpuinfo": text}), (1,)).frequency_mhz == 3000.5
    gap = text.replace("processor\t: 1", "processor\t: 6")
    assert _linux.state(Texts({"/proc/cpuinfo": gap}), (6,)).frequency_mhz == 3000.5
    assert _linux.state(Texts({"/proc/cpuinfo": gap}), (1,)).frequency_mhz is None


def test_a_board_and_its_processor() -> None:
    text = "processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\nCPU part : 0xd08\nprocessor : 1\n"
    board = {"/proc/cpuinfo": text, "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4"}
    told = _linux.processor(Texts(board), "aarch64")
    assert (told.model, told.machine, told.num_cores) == (
        "Raspberry Pi 4 Model B Rev 1.4, 1 x Cortex-A72",
        "aarch64",
        2,
    )
    again = _linux.processor(
        Texts(board | {"/proc/cpuinfo": f"{text}Model : Raspberry Pi 4 Model B Rev 1.4\n"}), "aarch64"
    )
    assert again == told
    assert told.cores == {0, 1}
    here = _linux.processor(Texts(board), "aarch64", cores={1}, num_cores=9)
    assert (here.cores, here.num_cores) == ({1}, 2), "the system knows better what may be used"
    bare = _linux.processor(Texts(), "riscv64", num_cores=4)
    assert (bare.model, bare.num_cores, bare.cores) == ("riscv64", 4, frozenset())


def energy(zones: dict[str, tuple[str, str]]) -> Texts:
    texts = {}
    for zone, (name, reading) in zones.items():
        texts |= {
            f"{RAPL}{zone}/name": name,
            f"{RAPL}{zone}/energy_uj": reading,
            f"{RAPL}{zone}/max_energy_range_uj": "1000",
        }
    return Texts(texts)


def test_energy_of_packages_over_the_end_of_a_counter() -> None:
    counter = EnergyCounter()

    def read(first: int, second: int) -> float:
        zones = {"0": ("package-0", str(first)), "1": ("package-1", str(second))}
        return counter.read_uj(energy(zones | {"0:0": ("core", "5"), "2": ("psys", "9")}), "it")

    assert read(900, 10) == 910
    assert read(950, 30) == 980
    assert read(20, 40) == 1060
    assert read(10, 40) == 2050


def test_energy_that_may_not_be_read_or_is_not_there() -> None:
    with pytest.raises(TargetError, match=r"not available on it.*powercap/\*/energy_uj.*Leave energy out"):
        EnergyCounter().read_uj(Texts(), "it")
    files = energy({"0": ("package-0", "1")})
    secret = {path: text for path, text in files.texts.items() if not path.endswith("energy_uj")}
    with pytest.raises(
        TargetError, match=r"not available on it.*rapl:0/energy_uj: Permission denied.*Let its user read"
    ):
        EnergyCounter().read_uj(Texts(secret, {f"{RAPL}0/energy_uj": "Permission denied"}), "it")
