"""The currencies that a product or an account may have: the active codes of ISO 4217 with which something can be paid.

From List One as published on 2026-01-01, without funds codes (such as CLF, USN), precious metals, bond units, XDR, XSU,
XUA, XTS and XXX. Events are not held to it: they may be older than a list.

References: ISO 4217, List One, https://www.six-group.com/en/products-services/financial-information/data-standards.html.
"""

from typing import Annotated, Final

from msgspec import Meta

LIST_OF: Final = "2026-01-01"
_CODES: Final = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY
    COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR
    ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK
    MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF
    SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU
    UYW UZS VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
ActiveCurrency = Annotated[
    str,
    Meta(
        pattern=rf"^({'|'.join(_CODES.split())})\Z",
        description=f"an active currency code of ISO 4217 (List One, {LIST_OF})",
    ),
]
