"""Languages against sentences of known language, and the many-at-once skim against py3langid itself."""

import math

import numpy as np
import polars as pl
import pytest

from kiloset.filters import languages
from kiloset.filters.languages import LANGUAGE_TASK, LEAST_WORDS, SKIMMED, foreign, languages_known

SENTENCES = {
    "en": ["I do not know whether the train will be on time tomorrow morning, but I hope so.",
           "To make a good soup, first peel the vegetables and then fry them for a while.",
           "Give three tips for someone who wants to sleep better at night.",
           "The old man sat by the window and read the letter that his daughter had sent."],
    "fr": ["Je ne sais pas si le train arrivera à l'heure demain matin, mais je l'espère.",
           "Pour préparer une bonne soupe, il faut d'abord éplucher les légumes puis les faire revenir.",
           "Donne trois conseils à quelqu'un qui veut mieux dormir la nuit.",
           "Le vieil homme était assis près de la fenêtre et lisait la lettre de sa fille."],
    "de": ["Ich weiß nicht, ob der Zug morgen früh pünktlich ankommt, aber ich hoffe es.",
           "Um eine gute Suppe zu kochen, muss man zuerst das Gemüse schälen und anbraten.",
           "Gib drei Ratschläge für jemanden, der nachts besser schlafen möchte.",
           "Der alte Mann saß am Fenster und las den Brief, den seine Tochter geschickt hatte."],
    "es": ["No sé si el tren llegará a tiempo mañana por la mañana, pero espero que sí.",
           "Para preparar una buena sopa, primero hay que pelar las verduras y luego sofreírlas.",
           "Da tres consejos a alguien que quiere dormir mejor por la noche.",
           "El anciano estaba sentado junto a la ventana y leía la carta de su hija."],
    "it": ["Non so se il treno arriverà in orario domani mattina, ma lo spero davvero.",
           "Per preparare una buona zuppa bisogna prima sbucciare le verdure e poi farle rosolare.",
           "Il vecchio era seduto vicino alla finestra e leggeva la lettera di sua figlia."],
    "pt": ["Não sei se o comboio chegará a horas amanhã de manhã, mas espero que sim.",
           "O velho estava sentado junto à janela e lia a carta que a filha lhe tinha mandado."],
    "nl": ["Ik weet niet of de trein morgenochtend op tijd aankomt, maar ik hoop het wel.",
           "De oude man zat bij het raam en las de brief die zijn dochter had gestuurd."],
    "pl": ["Nie wiem, czy pociąg przyjedzie jutro rano na czas, ale mam taką nadzieję.",
           "Stary człowiek siedział przy oknie i czytał list, który przysłała mu córka."],
    "ru": ["Я не знаю, придёт ли поезд завтра утром вовремя, но очень надеюсь на это.",
           "Старик сидел у окна и читал письмо, которое прислала ему дочь из города."],
    "tr": ["Trenin yarın sabah zamanında gelip gelmeyeceğini bilmiyorum ama umarım gelir.",
           "Yaşlı adam pencerenin yanında oturmuş kızının gönderdiği mektubu okuyordu."],
    "sv": ["Jag vet inte om tåget kommer i tid i morgon bitti, men jag hoppas verkligen det.",
           "Den gamle mannen satt vid fönstret och läste brevet som hans dotter hade skickat."],
    "vi": ["Tôi không biết sáng mai tàu có đến đúng giờ hay không, nhưng tôi hy vọng là có."],
    "el": ["Δεν ξέρω αν το τρένο θα φτάσει στην ώρα του αύριο το πρωί, αλλά το ελπίζω."],
    "ar": ["لا أعرف ما إذا كان القطار سيصل في الموعد صباح الغد، لكنني آمل ذلك كثيرا.",
           "جلس الرجل العجوز بجانب النافذة وقرأ الرسالة التي أرسلتها ابنته من المدينة."],
    "hi": ["मुझे नहीं पता कि कल सुबह ट्रेन समय पर आएगी या नहीं, लेकिन मुझे उम्मीद है।"],
    "zh": ["我不知道明天早上的火车会不会准时到达，但是我希望如此。", "老人坐在窗边，读着女儿从城里寄来的那封很长的信。"],
    "ja": ["明日の朝の電車が時間通りに来るかどうかはわかりませんが、そう願っています。"],
    "ko": ["내일 아침 기차가 제시간에 도착할지 모르겠지만 그렇게 되기를 간절히 바라고 있습니다."],
    "th": ["ฉันไม่รู้ว่ารถไฟจะมาถึงตรงเวลาในเช้าวันพรุ่งนี้หรือไม่ แต่ฉันหวังว่าจะเป็นเช่นนั้น"],
}  # fmt: skip
KNOWN = [(code, text) for code, texts in SENTENCES.items() for text in texts]

NOT_FOREIGN = [
    # From Dolly, where py3langid is sure of Italian.
    "Pasta = casarecce, gnocchi, tonnarelli, orecchiette, conchiglie Bread = gnocco fritto, focaccia, grissini",
    "- Ragu alla Bolognese\n- Risotto\n- Spaghetti alla Carbonara\n- Napoletana Pizza \n- Arancini \n- Fiorentina Steak",
    "- Barolo\n- La Morra\n- Cherasco\n- Verduno\n- Roddi\n- Grinzane Cavour\n- Diano d'Alba\n- Serralunga d'Alba",
    ". Giorgia Meloni\n. Mario Draghi\n. Giuseppe Conte\n. Paolo Gentiloni\n. Matteo Renzi",
    '- "Quando m\'en vo" from La Boheme by Puccini\n- "O mio babbino caro" from Gianni Schicchi\n- "Sì, mi chiamano Mimì"',
    "Victor Hugo\nThéophile Gautier\nCatulle Mendès\nJosé María de Heredia\nJosé Martí\nPaul Verlaine\nEdgar Allan Poe",
    "for (let i = 0; i < n; i++) { const m = tab[i]; if (m > max) { max = m; } } return max;",
    "```\nPara cada elemento de la lista hay que comprobar si el valor es mayor que el máximo anterior.\n```",
    "rnbqkbnr/pp1ppppp/8/2p5/4P3/5N2/PPPP1PPP/RNBQKB1R b KQkq - 1 2 and so on until the king is lost",
    "3.14159 26535 89793 23846 26433 83279 50288 41971 69399 37510 58209 74944 59230 78164",
    "ACGT ACGT TTGA CCGA GGTA CCAT TTAG CCGA ACGT ACGT TTGA CCGA",
    "“El cielo se ve azul casi siempre.” This is what my grandmother said whenever somebody asked her.",
    "El cielo se ve azul casi siempre, por la mañana y por la tarde. It means that the sky looks blue nearly always.",
    " ".join(SENTENCES["es"]) + " That is what the old man said.",
    "", "\0" * 40, "ok " * 300, "👍 " * 50, "\u0301" * 50,
]  # fmt: skip


def _foreign(
    texts: list[str], allowed: tuple[str, ...], instruction: str = "Go on.", text: str = ""
) -> list[str | None]:
    rows = pl.DataFrame({"instruction": instruction, "input": text, "response": texts})
    codes = rows.with_columns(code=foreign("response", allowed))["code"]
    return codes.struct.field("language").to_list()


def test_sentences_of_other_languages_are_found_with_their_language() -> None:
    others = [(code, text) for code, text in KNOWN if code != "en"]
    codes = _foreign([text for _, text in others], ("en",))
    missed = [text for (_, text), code in zip(others, codes, strict=True) if code is None]
    assert {(language, code) for (language, _), code in zip(others, codes, strict=True) if code} <= {
        (c, c) for c in SENTENCES
    }
    assert len(missed) <= 0.05 * len(others), missed


@pytest.mark.parametrize("allowed", ["fr", "ru", "zh"])
def test_english_is_as_foreign_elsewhere(allowed: str) -> None:
    assert _foreign(SENTENCES["en"], (allowed,)) == ["en"] * 4


def test_a_sentence_in_a_language_allowed_is_never_foreign() -> None:
    for code, texts in SENTENCES.items():
        assert _foreign(texts, (code,)) == [None] * len(texts)
    assert _foreign([text for _, text in KNOWN], tuple(SENTENCES)) == [None] * len(KNOWN)
    assert _foreign([text for _, text in KNOWN], ()) == [None] * len(KNOWN)


def test_lists_code_numbers_and_mixed_texts_are_left_alone() -> None:
    assert _foreign(NOT_FOREIGN, ("en",)) == [None] * len(NOT_FOREIGN)


def test_seven_words_are_too_few_to_judge() -> None:
    eight = "Je ne sais pas quand il vient demain"
    assert len(eight.split()) == LEAST_WORDS
    assert _foreign([eight, eight.removesuffix(" demain")], ("en",)) == ["fr", None]


@pytest.mark.parametrize(
    "instruction",
    ["Translate this.", "Say it in Spanish.", "Name a foreign proverb.", "Traduis en anglais :", "¿Cómo se dice en inglés?",
     "Übersetze das ins Spanische.", "Переведи на испанский", "翻译成西班牙语", "Dilo en francés", "Sing the anthem of Mexico."],
)  # fmt: skip
def test_an_instruction_that_speaks_of_languages_may_have_an_answer_in_another(instruction: str) -> None:
    assert LANGUAGE_TASK.search(instruction)
    assert _foreign(SENTENCES["es"], ("en",), instruction) == [None] * 4


def test_an_answer_may_be_in_the_language_of_its_input() -> None:
    assert _foreign(SENTENCES["es"], ("en",), text="¿Crees que el tren llegará a tiempo mañana?") == [None] * 4
    assert _foreign(SENTENCES["es"], ("en",), text="Do you think that the train will be on time?") == ["es"] * 4


def test_the_known_languages_have_a_twentieth_of_the_texts_whose_language_is_sure() -> None:
    english = [text for text in SENTENCES["en"] for _ in range(5)]
    assert languages_known(english[:19] + SENTENCES["fr"][:1] + ["", "1 2 3", "hm"] * 20) == ("en", "fr")
    assert languages_known(english + SENTENCES["fr"][:1]) == ("en",)
    assert languages_known([]) == languages_known(["", "4", "x = 1"]) == ()


def test_many_are_skimmed_as_py3langid_scores_them_one_by_one() -> None:
    texts = [text for _, text in KNOWN] + [text.upper() * 5 for _, text in KNOWN] + NOT_FOREIGN[:-5] + ["", "a"]
    detector = languages.language_detector()
    skimmed = languages._skim(pl.Series(texts))
    for text, row in zip(texts, skimmed, strict=True):
        begins = text.lower().encode()[:SKIMMED]
        scores = detector._raw_score(begins)
        shares = np.exp((scores - scores.max()) / math.sqrt(len(begins) or 1))
        assert row == pytest.approx(shares / shares.sum(), abs=1e-4)


def test_none_of_what_is_found_is_lost_by_skimming(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for _, text in KNOWN] + NOT_FOREIGN
    skimmed = _foreign(texts, ("en", "it"))
    monkeypatch.setattr(languages, "_doubtful", lambda texts, allowed: pl.Series([True] * len(texts)))
    assert skimmed == _foreign(texts, ("en", "it"))
