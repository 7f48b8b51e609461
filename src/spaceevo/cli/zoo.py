"""`spaceevo zoo`: the named networks, with their costs and sources."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from spaceevo.cli.run import JsonOption


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def zoo(as_json: JsonOption = False) -> None:
        """List the named networks: MACs, parameters, activation memory, and where they are published."""
        from rich.table import Table

        from spaceevo.graph.nodes import peak_activation_bytes
        from spaceevo.spaces.subnet import network_program
        from spaceevo.spaces.zoo import zoo as networks

        rows = []
        for network in networks().values():
            subnet = network.subnet
            rows.append(
                {
                    "name": network.name,
                    "resolution": subnet.resolution,
                    "macs": subnet.macs,
                    "published_macs_m": network.published_macs,
                    "num_params": subnet.num_params,
                    "published_params_m": network.published_params,
                    "activation_bytes_int8": peak_activation_bytes(network_program(subnet)),
                    "source": network.source,
                    "note": network.note,
                }
            )
        if as_json:
            typer.echo(json.dumps(rows, indent=1))
            return
        table = Table("network", title="Zoo: for one image; M = millions")
        for column in ("size", "MACs, M", "published", "params, M", "published", "activations INT8, KiB"):
            table.add_column(column, justify="right")
        table.add_column("source")
        for row in rows:
            table.add_row(
                str(row["name"]),
                str(row["resolution"]),
                f"{row['macs'] / 1e6:.1f}",  # type: ignore[operator]
                f"{row['published_macs_m']:.0f}",
                f"{row['num_params'] / 1e6:.3f}",  # type: ignore[operator]
                f"{row['published_params_m']:.3f}",
                f"{row['activation_bytes_int8'] / 1024:.0f}",  # type: ignore[operator]
                str(row["source"]),
            )
        console = Console()
        console.print(table)
        for row in rows:
            if row["note"] and not str(row["name"]).startswith("SEQnet@cpu"):
                console.print(f"{row['name']}: {row['note']}", highlight=False)
        console.print("SEQnet@cpu-A0 to A4 are SEQnet@vnni-A0 to A4 under the paper's other name.", highlight=False)
