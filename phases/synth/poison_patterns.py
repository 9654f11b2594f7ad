"""The words of orders to a reading model, as regular expressions on unfolded text. Data; poison.py says how it is used.

HARD: one is enough. SOFT: two different ones are needed, outside of quotation marks and code. Tried on 3,009 passages of a
handbook, a programming book and security cheat sheets, whose findings were all read.
"""

from __future__ import annotations

import re

MODEL = r"(?:AI(?: models?| assistants?| systems?)?|LLMs?|GPT(?:-?\d\w*)?|ChatGPT|Claude|Gemini|(?:large )?language models?|chat ?bots?|(?:AI |virtual )?assistant|annotators?|graders?|question (?:writer|generator)s?|data ?set (?:writer|generator)s?)"
SURE_MODEL = r"(?:AI (?:model|assistant|system)s?|LLMs?|GPT(?:-?\d\w*)?|ChatGPT|(?:large )?language models?|chat ?bots?)"
TASK = r"(?:instructions?|prompts?|directions|directives?|orders|guidelines|commands|programming|system (?:prompt|message)|guardrails|restrictions)"
DONE = r"(?:answers?|questions?|pairs?|repl(?:y|ies)|question[- ]and[- ]answer pairs?|QA pairs?|outputs?|json)"
START = r"(?:(?<![\w'’-])(?:please|now|always|just|must|should|shall|to|and|then|you|instead|simply|will|can|kindly|immediately),? |(?:^|(?<=[.!?:;,\"'“>\])*#\n-]))\s*)"


LINE = r"(?:^|[.!?>\])]\s)[\W_]*"
"""Where a line or sentence begins."""


def _compile(pattern: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile(pattern, flags | re.MULTILINE)


HARD = {
    "ignore_instructions": _compile(
        rf"\b(?:ignore|disregard|forget|override|bypass|discard|abandon|stop following|do not follow|don't follow|pay no attention to)\b[^.!?;:\n]{{0,25}}"
        rf"\b(?:previous|prior|above|earlier|preceding|foregoing|existing|initial|original|your|system|all)\b[^.!?;:\n]{{0,25}}\b{TASK}(?![\w-])"
        r"|\b(?:ignore|disregard|forget)\b (?:everything|anything|all|what)\b[^.!?\n]{0,20}\b(?:above|before|told|said|prior|previously|you (?:know|were|have))\b"
        r"|\b(?:set|put|leave) (?:aside|behind) (?:all |any |the |your )*(?:previous |earlier )?(?:guidance|instructions?|rules|directions)\b[^.!?\n]{0,30}\byou\b"
        r"|\bvergiss (?:alles|alle)\b[^.!?\n]{0,30}\b(?:dir|du|bisher|vorher|oben)|\boublie[zr]? tout\b|\bolvida todo\b"
        r"|\b(?:do not|don't) (?:summari[sz]e|analy[sz]e|process|use|answer from|write (?:about|questions (?:about|on))|ask about) (?:this|the) (?:passage|text|document|material)(?: above)?\b"
        r"|\bignorier\w* (?:\w+ ){0,3}(?:vorherig|bisherig|obig|vorangegangen)\w* (?:\w+ )?(?:anweisung|instruktion|befehl|vorgabe)\w*|\bignore[zr]? (?:\w+ ){0,3}(?:instructions|consignes|directives) (?:\w+ )?(?:précédentes|ci-dessus|antérieures)"
        r"|\b(?:ignor[ae]|olvida|omite)\w* (?:\w+ ){0,3}(?:instrucciones|órdenes|istruzioni|instruções) (?:\w+ )?(?:anteriores|previas|precedenti)|忽略(?:之前|以上|上述|前面)[^。\n]{0,8}(?:指令|指示|说明|提示)"
    ),
    "new_role": _compile(
        rf"\byou are (?:now|no longer|actually|henceforth) (?:an? |the |in |operating|acting|bound|called|my )?[^.!?\n]{{0,40}}\b(?:{MODEL}|model|DAN|unrestricted|unfiltered|jailbroken|developer mode|pirate|persona|bound|rules)\b"
        rf"|{START}(?:act|behave|respond|roleplay|role-play) as (?:if you (?:were|are) )?(?:an? |the )?(?:unrestricted|unfiltered|uncensored|jailbroken|evil|different|new)\b"
        rf"|\bfrom now on,? you (?:must|will|shall|should|are|have to|only) (?:only |always |to )?(?:answer|respond|reply|act|write|say|speak|be an? |obey|follow|an? {MODEL})"
        r"|\b(?:enter|enable|activate|switch (?:in)?to|you are in) (?:developer|debug|DAN|god|jailbreak|maintenance|admin(?:istrator)?|unrestricted) mode\b[^.!?\n]{0,60}\b(?:answer|write|say|output|ignore|reply|filter|polic\w+)"
        rf"|\b(?:developer|debug|DAN|god|jailbreak|unrestricted) mode:? (?:is )?(?:on|enabled|activated|active)\b"
        rf"|^\s*you are an? (?:\w+ ){{0,3}}{MODEL}\b[^.!?\n]{{0,60}}\b(?:must|will|always|whose|who|that|only)\b"
    ),
    "addresses_model": _compile(
        rf"\b(?:attention|note to|notice to|dear|hey|hello|hi|message (?:to|for)|instructions? (?:to|for)|important for|memo to|reminder (?:to|for)),? (?:all |any |every |the |an? )*(?:{MODEL}|model|teacher model)(?: (?:reading|processing|that|which|who)[^.!?:,\n]{{0,40}})? ?[:,!—–-]"
        rf"|\bto (?:the|any|all|every|whichever) {MODEL} ?:"
        rf"|\b(?:when|while|if|whenever) (?:you (?:are )?)?(?:generat|writ|creat|mak|produc|ask|answer)(?:e|ing)? (?:any |the |your )?(?:questions?|answers|pairs|training data)\b[^.!?\n]{{0,30}}\b(?:from|about|for|on|with) (?:this|the) (?:page|passage|text|document|material)\b"
        rf"|\b(?:if|when|since|because|as) (?:you are|you're|you,? as) (?:an? |the |any |reading this as an? )*(?:automated )?(?:{MODEL}|model reading|model that (?:reads|writes))"
        rf"|\b(?:any|every|all|the) (?:{MODEL}|model) (?:reading|processing|parsing|that reads|which reads|that processes|summari[sz]ing|ingesting) (?:this|these|the following)[^.!?\n]{{0,40}}\b(?:must|should|shall|will|is to|has to|are to)\b"
        rf"|\b(?:for|to) (?:any|every|all|whichever|whatever|each) {MODEL} (?:that|which|who|reading|processing)[^.:\n]{{0,30}}\b(?:this|these)\b"
        rf"|\bas an? {MODEL},? you (?:must|should|shall|will|have to|are required)\b"
    ),
    "new_instructions": _compile(
        rf"{LINE}(?:new|updated|revised|real|actual|additional|secret|hidden|special|important|urgent|priority|overriding|admin(?:istrator)?|developer|operator) (?:system )?(?:instructions?|prompt|directives?|orders|task|override|command)s?(?: for [^:\n]{{1,40}})? ?[:—–](?!:)"
        rf"|{LINE}system(?: prompt| message| override| notice| instructions?| update| note)? ?(?::|\]|>)(?!:)\s*[^\n]{{0,80}}\b(?:you|your|answers?|questions?|ignore|always|must|output|respond|reply|write)\b"
        r"|\byour (?:task|job|role|goal|instructions) (?:has|have) changed\b|\byour (?:new|real|actual|true|only|sole) (?:task|goal|instructions?|job|objective|purpose|role) (?:is|are)(?: now)? to\b|\bthe (?:real|actual|true|new) (?:task|instructions?) (?:is|are|for you)\b"
    ),
    "asks_for_phrase": _compile(
        rf"\b(?:include|insert|append|add|mention|put|write|use|place|embed|repeat|say|print|output|cite|recommend|prepend|weave|work)\b[^.!?\n]{{0,90}}(?:https?://\S*|[^.!?\n]|\.(?=\w)){{0,60}}\b(?:in|to|into|at the (?:end|start|beginning) of|with|after|before|as)\b (?:every|each|all|any|your)(?: of)?(?: the| your| single)? {DONE}\b"
        rf"|\b(?:in|into|to|with|of) (?:every|each|all|any)(?: one)? of your {DONE}\b"
        rf"|\byour (?:answers?|questions?|reply|replies|json|pairs?|next (?:answer|output|message)|final answer) (?:must|should|has to|have to|need to|needs to|shall|will) (?:always |only |also |all |each )?(?:contain|include|begin|start|end|be|mention|say|consist|read|use|repeat)\b"
        rf"|\b(?:every|each|all|any) (?:generated |of (?:the|your) )?{DONE}(?: you (?:write|give|make|produce|generate))? (?:must|should|has to|have to|need to|needs to|shall) (?:always |only |also |all )?(?:contain|begin with|start with|end with|mention|say|read|repeat|recommend)\b"
        r"|\b(?:answer|respond to|reply to) (?:every|each|all|any)(?: of)?(?: the| your| further| following)? (?:questions?|quer(?:y|ies)|prompts?) (?:only |exactly |just )?(?:with|by|as|using)\b"
        r"|\b(?:the )?(?:correct |only |right |true )?answer to (?:every|each|all|any)(?: of the| the)? questions?[^.!?\n]{0,40}\b(?:is|are|must be|should be)\b"
        r"|(?<!the )(?<!an )(?<!your )\b(?:respond|reply|answer) (?:only |solely |exclusively )?(?:with|using) (?:only |exactly |just |nothing but |the (?:exact |single |secret )?(?:word|phrase|string|token|sentence|code))"
        r"|\b(?:repeat|say|write|output|print|return|emit) (?:after me|(?:exactly )?(?:the|this) (?:exact |following |secret |magic |canary )(?:word|phrase|string|token|sentence|text|canary|marker|code)\b[^.!?\n]{0,20}(?::|verbatim|and nothing else|\bonly\b|[\"'“]))"
        rf"|\b(?:set|make|leave|fill|use|write|put|copy)\b[^.!?\n]{{0,40}}\b(?:the )?[`\"'“]?(?:question|answer|evidence|bucket)[`\"'”]? field\b"
    ),
    "asks_for_grade": _compile(
        rf"{START}(?:rate|score|grade|rank|give|assign|award|mark|judge|evaluate)\b[^.!?\n]{{0,50}}\b(?:this|these|it|(?:all|every|each|any|the|your) (?:passage|document|text|answer|pair|paper|essay|page|response|submission)s?)\b[^.!?\n]{{0,50}}(?:\b(?:10|ten|100|5|five) ?(?:/|out of) ?(?:10|ten|100|5|five)\b|\b(?:score|rating|grade|mark) of (?:10|ten|100|5|five)\b|\b(?:an?|with|at|as)(?: perfect)? (?:10|ten)\b ?(?:[.!\"”,]|$)|\bfull marks\b|\b(?:maximum|highest|top|perfect|best)(?: possible)? (?:score|rating|grade|mark)s?\b)"
        rf"|{START}(?:rate|score|grade) (?:this|it|these|me|us)\b[^.!?\n]{{0,30}}\b(?:10|ten)\b"
        rf"|{START}(?:mark|label|judge|rate|classify|treat|grade)\b[^.!?\n]{{0,30}}\b(?:all|every|each|any|this|these)\b[^.!?\n]{{0,30}}\b(?:answers?|pairs?|claims?|questions?|passages?|documents?)\b[^.!?\n]{{0,20}}\bas (?:fully )?(?:correct|supported|true|accurate|excellent|verified|approved|relevant)\b"
    ),
    "asks_to_reveal": _compile(
        r"\b(?:reveal|print|repeat|output|show|leak|disclose|quote|tell me|send|recite|write out)\b[^.!?\n]{0,30}\b(?:your|the) (?:(?:hidden|secret|full|entire|original|initial|complete) )*(?:system (?:prompt|message)|initial prompt|(?:hidden|secret|original|initial) instructions?|instructions you)"
        r"|\bwhat (?:is|was|are|were) your (?:system prompt|initial prompt|(?:original|secret|hidden|exact) instructions?)"
    ),
    "control_tokens": _compile(
        r"<\|(?:im_|end|start|begin|eot|eom|system|user|assistant|fim|tool|pad|sep|bos|eos|python_tag|channel|message|return|turn)[\w ]{0,30}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<\/?(?:think|scratchpad)>|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\]"
        r"|\{\{[#~]? ?(?:system|user|assistant)\b|```(?:system|prompt|instructions?)\n|\b(?:begin|start|end)(?: of)? (?:the )?(?:system|admin|developer|hidden|secret) (?:message|prompt|instructions?)\b|\[(?:new|next|real) (?:task|instructions?|prompt)\]"
        r"|#{2,3} ?(?:Instruction|System|Human|User|Input)s?:?\s[^#]{0,400}#{2,3} ?(?:Response|Assistant|Output|Answer)s?:|(?:^|[.!?]\s)(?:Human|User|System): ?[^\n]{1,400}\n+(?:Assistant|AI|Model):|\\n\\n(?:Human|Assistant):"
    ),
    "fake_marker": _compile(
        r"\[(?:end|begin|start|stop)(?: of)?(?: the)? (?:input|document|context|passage|prompt|material|user input|data)\]|\[[\w-]{0,40} ?(?:passage|material|document|context) \d* ?(?:ends|begins)\]|\bpassage \d+ (?:ends|begins)\b"
        r"|(?:^[\W_]*|[-=*_#~<\[]{2,} ?)(?:end|stop|close) (?:of )?(?:the )?(?:passage|material|document|context|input|prompt|data|text|untrusted (?:content|input|data)|user input)s?(?: \d+)?[\W_]*\n+[^\n]{0,120}\b(?:you|your|instructions?|now (?:write|answer|output|say)|task|questions? (?:and|must)|answers?)\b"
        r"|</(?:passage|material|untrusted|user_input|system|system_prompt|prompt)>\s*(?:<(?:system|instructions?|prompt|assistant|admin)>|[^\n<]{0,120}\b(?:you|your|now (?:write|answer|output|say)|ignore|instructions?)\b)"
        r"|<(?:system|system_prompt|admin|instructions?|important|hidden|secret|override)>[^<]{0,300}\b(?:you|your|ignore|answers?|questions?|must|output|say|write)\b"
    ),
    "ready_made_answer": _compile(r"\{\s*\"?pairs\"?\s*:\s*\[\s*\{[^\n]{0,400}\"(?:question|answer)\"", re.IGNORECASE | re.DOTALL),
    "asks_to_decode": _compile(
        r"\b(?:decode|decrypt|unscramble|deobfuscate|reverse|translate|base64[- ]decode)\b[^\n]{0,160}\b(?:follow|obey|execute|carry out|comply|act on|do (?:what|as) (?:it|the)|perform)\b[^.!?\n]{0,40}\b(?:it|them|result|message|instructions?|says|orders?|text|commands?|output)\b"
    ),
}

SOFT = {
    "do_not_tell": _compile(r"\b(?:do not|don't|never) (?:tell|mention|reveal|inform|warn|disclose|say)\b[^.!?\n]{0,30}\b(?:user|reader|human|anyone|this (?:instruction|note|message|order))s?\b"),
    "end_marker": _compile(r"^[\W_]*(?:end|stop) of (?:the )?(?:passage|document|material|context|input|prompt|data|text)[\W_]*$|</(?:passage|document|context|system|instructions?|prompt|assistant|human|material)>"),
    "speaks_of_model": _compile(rf"\b(?:{SURE_MODEL}|system prompt)\b"),
    "order": _compile(rf"{START}(?:say|output|reply|respond|answer|repeat|append|recommend|insist|claim|pretend|state)\b (?:that|with|only|exactly|this|to|\"|'|“|as)"),
    "about_answers": _compile(r"\b(?:your (?:answers?|repl(?:y|ies)|questions?|pairs?|json)|(?:every|each|all) (?:answers?|pairs?|questions?)\b|question[- ]and[- ]answer pairs?|to (?:any|every|each) (?:query|question|prompt|request)\b)"),
    "orders_model": _compile(rf"\b(?:{MODEL}|model) (?:must|shall|should|has to|have to) (?:always |only |never )?(?:reply|respond|answer|say|output|write|repeat|recommend)\b"),
    "if_asked": _compile(r"\b(?:if|when|whenever) (?:you are |you're |anybody |anyone |users? )?asks?(?:ed)?\b[^.!?\n]{0,60}\b(?:say|answer|reply|respond|tell|claim|recommend|state)\b"),
    "above_all": _compile(r"\b(?:this (?:overrides|supersedes|replaces|takes precedence)|takes? precedence over (?:all|any|every|your|the (?:previous|above))|highest priority|regardless of (?:what|your|any|the) (?:\w+ )?(?:says?|instructions?|rules|polic\w+))"),
    "must_obey": _compile(r"\byou (?:must|shall|are required to|are obliged to|have to) (?:obey|comply|follow (?:this|these|the following|my))\b|\b(?:failure to comply|non-?compliance will)\b"),
}

ORDERED_WORDS = _compile(
    r"\b(?:[Ss]ay|[Ww]rite|[Oo]utput|[Pp]rint|[Rr]eply|[Rr]espond|[Aa]nswer|[Ii]nclude|[Ii]nsert|[Aa]ppend|[Rr]epeat|[Mm]ention|[Rr]ecommend|[Ss]tate|[Uu]se|[Pp]roduce)\b[^.!?\n]{0,40}"
    r"(?:\b(?:word|phrase|code ?word|canary|password|marker|sentence|slogan|token)\b[^.!?\n]{0,12}?[\"'“`]?[A-Z][A-Z0-9_-]{4,}|[\"“][A-Z][A-Z0-9_-]{4,}[\"”])"
    r"|\b(?:[Ss]ay|[Oo]utput|[Rr]eply|[Rr]espond|[Aa]nswer|[Rr]epeat|[Pp]roduce|[Oo]bey|ask about|made by)\b (?:with |only |that |about |it is |this is )*[A-Z][A-Z0-9_-]{4,}\b",
    re.NOFLAG,
)
"""A sentence that asks for a word in capitals: too common in manuals to condemn a passage, enough to distrust a pair with just this word."""

ABOUT = _compile(
    r"\b(?:injections?|jailbreak\w*|attacks?|attackers?|adversar\w+|malicious|payloads?|exploit\w*|vulnerab\w+|untrusted|prompts?|LLMs?|language models?|chat templates?|special tokens?|tokenizers?|"
    r"chat models?|fine-?tun\w+|OWASP|red[- ]team\w*|guardrails?|sanitiz\w+)\b"
)
REPORTED = _compile(
    r"\b(?:such as|like|e\.g\.|for example|for instance|attackers?|attacks?|injections?|adversar\w+|users?|instruct(?:s|ed|ing)|tells?|telling|asks?|asking|says?|saying|phrases?|payloads?|jailbreaks?|"
    r"attempts?|tries|trick(?:s|ed|ing)|caus(?:e|es|ing)|manipulat\w+|mak(?:e|es|ing)|could|might|may|patterns?|detect\w*|attempt\w*|malicious|called|named|tokens?)\b"
)

CANARY = re.compile(
    r"(https?://[^\s\"'<>)\]]+|\bwww\.[^\s\"'<>)\]]+|\b[\w.+-]+@[\w-]+\.[\w.]+)"
    r"|\b([A-Z][A-Z0-9]*[-_][A-Z0-9_-]*[A-Z0-9]|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{6,}|[A-Z]{5,})\b"
    r"|(?:\b(?:word|phrase|say|write|output|print|reply|respond|answer|include|insert|append|repeat|mention|with|string|token|sentence)\b:? )[\"“`']([^\"”`'\n]{4,60})[\"”`']"
)
"""What an order may ask for: addresses, codes, and what it quotes."""

TRIGGERS = {
    "ignore_instructions": ("aside", "behind", "vergiss", "oubli", "do not", "don't", "ignor", "disregard", "forget", "overrid", "bypass", "discard", "abandon", "follow", "attention", "olvida", "omite", "忽略"),
    "new_role": ("you are", "from now on", " as ", " mode"),
    "addresses_model": ("ai", "llm", "gpt", "claude", "gemini", "model", "bot", "assistant", "annotator", "grader", "question", "data set", "dataset"),
    "new_instructions": ("instruction", "prompt", "directive", "orders", "task", "override", "command", "system", "goal", "job", "objective", "purpose", "role"),
    "asks_for_phrase": ("answer", "question", "pair", "repl", "output", "json", "respond", "repeat", "say ", "write", "print", "return", "emit", "field"),
    "asks_for_grade": ("rate", "scor", "grade", "rank", "marks", "rating", "label", "judge", "classify", "treat", "mark "),
    "asks_to_reveal": ("prompt", "instructions", "system message"),
    "control_tokens": ("<|", "{{", "```", "system", "admin", "developer", "hidden", "secret", "task]", "instruction", "prompt]", "[/", "[inst", "[system", "[avail", "[tool", "<<", "_of_turn", "think>", "scratchpad>", "##", "human:", "user:", "system:"),
    "fake_marker": ("ends", "begins", "end", "stop", "close", "</", "<"),
    "ready_made_answer": ("pairs",),
    "asks_to_decode": ("decode", "decrypt", "unscramble", "deobfuscate", "reverse", "translate"),
}
"""Without one of these strings, in small letters, the pattern cannot match: most passages are spared most patterns."""

SQUEEZED = re.compile(
    r"(?:ignore|disregard|forget)(?:all|any|the|your|my|of)*(?:previous|prior|above|earlier|preceding|system)(?:and|or|system|above)?(?:instructions?|prompts?|orders|rules|directions|commands)"
    r"|youarenow(?:an?|in)?(?:unrestricted|unfiltered|dan|jailbroken|developermode)"
)
"""For text without anything but small letters."""
SQUEEZED_TRIGGERS = ("ignore", "disregard", "forget", "youarenow")
