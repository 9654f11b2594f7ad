"""The word lists of the offline teacher, in one place. English; other languages get headings, lists and acronyms."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


ANAPHORA = word_set("""
    this these those that it its they their them he she his her such here there however therefore thus hence also but and
    or so then instead otherwise similarly likewise moreover furthermore additionally consequently meanwhile nevertheless
    still yet both either neither another other others each one some many most all few several now next first second third
    finally again already the-former the-latter former latter we let's i my our you'll you've yes no because since
    although though while which who whose what for-example as-a-result in-addition in-contrast on-the-other-hand at-this-
    point in-this-case that's it's there's here's we'll we've we're i'm i'll let not nor too see note notice remember
    recall imagine suppose look consider say okay ok
""")
"""First words of a sentence that point back to another one or talk to the reader about the text."""

PREPOSITIONS = word_set("""
    after before during into onto through per within about
    of in for with on between from to at by as under without
""")

GENERIC = word_set("""
    thing things example examples reason reasons problem problems result results way ways part parts value values number
    numbers file files code line lines first second third one two last next idea goal goals answer point points difference
    effect effects url case cases kind kinds type types fact rest name names list lists section chapter step steps time
    times people person user users item items option options program programs function functions output input method
    methods system application applications process data approach solution issue issues purpose question questions word
    words reader team error errors message text page pages table benefit advantage disadvantage following trick key aim
    task tasks job place situation situations form forms amount set group feature features side end start top bottom order
    detail details content contents information version versions rule rules change changes tool work everything something
    nothing anything everyone someone argument arguments variable variables object objects element consequence downside
    upside drawback body scope caller callee elements field fields parameter parameters pattern patterns technique
    techniques practice mechanism
""")
"""Nouns that mean something only in their context."""

VAGUE = word_set("""
    appropriate core opposite maximum minimum
    main most more less least only whole new old different same best better worst simple common important good bad certain
    own full entire general specific particular major minor key primary secondary final initial first second third last
    next previous following current actual real usual typical single possible available various several many few much
    above below similar big large small long short other another such good-reason easiest easy hard difficult great
    interesting correct wrong right valid invalid given resulting outer inner original two three four five six seven eight
    nine ten normal remaining preferred recommended
""")

NOT_IN_SUBJECT = word_set("""
    is are was were be been has have had do does did can could will would should may might must that which who whom whose
    when where while if because so but not than then there what how why however also only just even never always you your
    let
""")

COMMANDS = word_set("""
    accept add allow apply ask assign assume assert avoid block build call change check choose clean collect combine
    compare configure consider create decide declare define delete deploy disable do download enable encode encrypt
    enforce ensure establish examine fill find follow generate get give grant handle identify implement include inspect
    install invoke keep let limit load log look maintain make manage minimize monitor move open perform pick place plan
    prefer prevent print protect provide put read regularly reject remember remove replace require restrict return review
    rotate run save see select send separate serve set show sign start store supply take test treat try turn update use
    using validate verify wait watch write none nothing neither
""")
"""First words of an order ("Establish security controls for ..."), which would be misread as a noun phrase."""

NOUNS_IN_ING = word_set("""
    string thing ring king spring setting mapping binding encoding building meaning warning heading listing
""")

PLAIN_HEADINGS = word_set("""
    introduction overview summary conclusion conclusions context objective objectives background example examples note
    notes references reference usage description details problem solution recommendation recommendations discussion
    motivation appendix purpose scope abstract goals contents cons pros advantages disadvantages benefits key points tips
    warning caution important implementation results methods general further reading
""")

QUESTION_WORDS = word_set("""
    what why how when where which who is are do does can should must may will has have
""")

COMMON = word_set("""
    the and for with that from into your our not all how what why when using use a an of to in on is are be it
""")

VERBS = word_set("""
    accepts adds allows answers applies asks asserts avoids begins belongs blocks brings builds calls can causes changes
    checks chooses collects combines comes compares computes contains continues controls converts copies counts covers
    creates cuts decides declares defines deletes depends describes determines divides does drops enables encodes ends
    enforces ensures evaluates exits expects explains exports fails filters finds fixes follows forms gives goes groups
    guarantees happens has helps hides holds identifies implements imports improves includes increases indicates installs
    keeps learns leaves lets limits lists loads locks looks makes manages maps marks masks matches measures merges moves
    names needs offers opens owns passes pays performs permits points prepares prevents prints produces protects proves
    provides publishes pulls puts raises reads receives records reduces refuses rejects releases removes repeats replaces
    reports represents requires resolves restores returns reuses reveals runs saves says searches sees selects sends
    separates serves sets shares shows signals skips solves specifies splits starts states stays stops stores supports
    takes tells terminates tests tracks trains translates treats tries turns updates uses validates verifies waits walks
    wants works wraps writes
""")

STATES = word_set("""
    begins
    has can needs belongs depends comes contains does happens wants follows stays looks ends starts says includes covers
    holds offers sees waits expects learns costs passes opens keeps
""")
"""Verbs of being and having: asking what the subject does would be odd."""
