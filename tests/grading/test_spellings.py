"""Exact numbers in random spellings: never equal to another number, never different from themselves."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from lynxstop.grading.grading import answers_agree
from lynxstop.grading.second import second_opinion

_SMALL = st.builds(Fraction, st.integers(-40, 40), st.integers(1, 12))
SURDS = st.tuples(_SMALL, _SMALL, _SMALL)
"""Coefficients of 1, sqrt(2) and sqrt(3), which are linearly independent: equal only where all are."""


@st.composite
def rational(draw: st.DrawFn, value: Fraction) -> str:
    above, below, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    factor = draw(st.integers(1, 9))
    forms = [
        f"{sign}{above}/{below}",
        rf"{sign}\frac{{{above}}}{{{below}}}",
        rf"{sign}\dfrac{{{above * factor}}}{{{below * factor}}}",
        rf"{sign}\frac{{{above} \cdot {factor}}}{{{below}\times {factor}}}",
        rf"\left({sign}{above}\right)\div {below}",
        rf"{sign}{above} \cdot {below}^{{-1}}",
        rf"\frac{{{value.numerator - factor * below}}}{{{below}}}+{factor}",
    ]
    if below == 1:
        forms += [f"{sign}{above}", f"{sign}{above}.0", rf"{sign}{above}\text{{ cm}}", f"x = {sign}{above}"]
    if 10**6 % below == 0 and 10**12 % below == 0:
        forms.append(f"{float(value):.12f}".rstrip("0").rstrip("."))
    return draw(st.sampled_from(forms))


@st.composite
def surd(draw: st.DrawFn, value: tuple[Fraction, Fraction, Fraction]) -> str:
    twos = st.sampled_from([r"\sqrt{2}", r"\sqrt2", "2^{1/2}", r"\frac{2}{\sqrt{2}}", r"\sqrt{\frac{4}{2}}"])
    threes = st.sampled_from(
        [r"\sqrt{3}", r"\sqrt 3", r"3^{\frac12}", r"\frac{\sqrt{12}}{2}", r"\tan(\frac{\pi}{3})"]
    )
    terms = [f"({draw(rational_without_unit(value[0]))})"]
    for coefficient, roots in zip(value[1:], (twos, threes), strict=True):
        if coefficient:
            terms.append(rf"({draw(rational_without_unit(coefficient))}) \cdot {draw(roots)}")
    return "+".join(draw(st.permutations(terms)))


def rational_without_unit(value: Fraction) -> st.SearchStrategy[str]:
    return rational(value).filter(lambda text: "text" not in text and "=" not in text)


@settings(max_examples=150, deadline=None)
@given(st.data(), _SMALL, _SMALL)
def test_rationals(data, a, b):
    one, again, other = (data.draw(rational(value)) for value in (a, a, b))
    assert answers_agree(one, again) is True
    assert answers_agree(one, other) is (a == b)
    assert second_opinion(one, other) in (a == b, None)


@settings(max_examples=60, deadline=None)
@given(st.data(), SURDS, SURDS)
def test_surds(data, a, b):
    one, again, other = (data.draw(surd(value)) for value in (a, a, b))
    assert answers_agree(one, again) is not False
    assert answers_agree(one, other) in ((True, None) if a == b else (False, None))
    assert second_opinion(one, again) is not False
    assert second_opinion(one, other) is not (a != b)


@settings(max_examples=60, deadline=None)
@given(st.data(), SURDS, st.integers(3, 40))
def test_numbers_that_differ_by_little_are_not_equal(data, a, digits):
    shifted = (a[0] + Fraction(1, 10**digits), *a[1:])
    assert answers_agree(data.draw(surd(a)), data.draw(surd(shifted))) is not True


@settings(max_examples=40, deadline=None)
@given(st.data(), st.lists(st.integers(-9, 9), min_size=2, max_size=4), st.integers(1, 5))
def test_polynomials(data, coefficients, change):
    def spelled(values: list[int]) -> str:
        terms = [rf"({value})x^{{{power}}}" for power, value in enumerate(values)]
        return "+".join(data.draw(st.permutations(terms)))

    other = [coefficients[0] + change, *coefficients[1:]]
    assert answers_agree(spelled(coefficients), spelled(coefficients)) is True
    assert answers_agree(spelled(coefficients), spelled(other)) is False
