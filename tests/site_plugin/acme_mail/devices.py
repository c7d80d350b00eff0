from legacy_email_proxy.contracts import Envelope, Filter, Header, Refused


class DevicesFilter(Filter):
    """Devices write to Acme only, from Acme's address."""

    async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
        if not forward_path.lower().endswith("@acme.example"):
            raise Refused(550, "5.7.1", "Devices write to acme.example only")
        return forward_path

    async def header(self, envelope: Envelope, header: Header) -> None:
        header.replace("From", "Acme's devices <devices@acme.example>")
        header.add("X-Device", envelope.client.address)
