"""How a node in leader mode reaches the leader, built from its configuration."""

from __future__ import annotations

import ssl

from ha.config import Config
from ha.core.errors import Code, HaError
from ha.engine.leadership import Leadership
from ha.forward.forwarder import ForwardOptions, GrpcForwarder
from ha.forward.target import client_context, parse_target


def make_forwarder(config: Config, leadership: Leadership, process: str) -> GrpcForwarder:
    """``process``: new at each start. Raises HaError for files and addresses that are none."""
    for address in (config.leader_addr, config.leader_static):
        if address is not None:
            target = parse_target(address, insecure=config.grpc_insecure)
            if not target.secure and not config.grpc_insecure:
                raise HaError(
                    Code.BAD_REQUEST,
                    f"{address} is without TLS",
                    hint=f"write https://{target.address}, or add --grpc-insecure",
                )
    options = ForwardOptions(
        name=config.name,
        process=process,
        token=config.token,
        insecure=config.grpc_insecure,
        tls=_context(config),
    )
    return GrpcForwarder(options, leadership)


def _context(config: Config) -> ssl.SSLContext:
    """This node shows the certificate with which it serves, in case the leader wants one."""
    try:
        return client_context(
            insecure=config.grpc_insecure,
            ca=config.leader_ca,
            certificate=config.http_cert,
            key=config.http_key,
        )
    except (OSError, ValueError) as error:
        raise HaError(
            Code.BAD_REQUEST,
            f"--leader-ca {config.leader_ca}, --http-cert or --http-key cannot be used: {error}",
            hint="they must be PEM files, the key without a password",
        ) from error
