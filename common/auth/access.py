"""What an operation asks of a principal: its rule, declared beside its path (`common.http.contract.operation`)."""

from dataclasses import dataclass
from typing import Final

from common.auth.principal import CUSTOMER, Principal, Scope


class Forbidden(Exception):
    """The principal has no scope for the operation."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use an operation."""

    scopes: tuple[Scope, ...] = ()
    """Those who have one of these may, whoever's the thing is."""
    own: bool = False
    """A customer may, if it is their own: the endpoint has to look (`common.auth.guard.confined_to`)."""
    public: bool = False
    """Everybody may, without credentials."""
    open_on_admin_port: bool = False
    """Everybody who reaches the admin port may."""

    @property
    def accepted(self) -> tuple[Scope, ...]:
        """The scopes of which a principal needs one."""
        return (CUSTOMER, *self.scopes) if self.own else self.scopes

    def confinement(self, principal: Principal) -> str | None:
        """The customer to whose things this principal is confined here; None if to nobody's. Raises `Forbidden`."""
        if not principal.scopes.isdisjoint(self.scopes):
            return None
        if self.own and CUSTOMER in principal.scopes:
            return principal.subject
        raise Forbidden

    def sentence(self) -> str:
        """The rule for a reader of the OpenAPI document."""
        if self.public:
            return "Open to everybody."
        named = " or ".join(f"`{scope}`" for scope in self.scopes)
        if self.own:
            return f"A `customer` for what is their own; for anyone's: {named}."
        return f"Needs the scope {named}{', except on the admin port' if self.open_on_admin_port else ''}."


PUBLIC: Final = Access(public=True)


def scopes(*accepted: Scope) -> Access:
    """Only principals with one of these scopes."""
    return Access(scopes=accepted)


def own(*for_anyones: Scope) -> Access:
    """A customer for what is their own; principals with one of these scopes for anyone's."""
    return Access(scopes=for_anyones, own=True)
