"""
Phrases that give orders to the system around a lesson, as regular expressions.

In `ENGLISH` a space stands for any gap between words and brackets only group; text and patterns are
without accents and in lower case. Gaps are bounded, so that no text takes long. `MARKS` are matched as they stand.
"""

_ALL = r"((all|any|every|each|of|the|your|my|our|these|those|this|that|such) ){0,5}"
OLD = (
    r"(previous|previously given|prior|above|earlier|preceding|former|foregoing|past|existing|original|"
    r"initial|current|"
    r"other|system|developer|safety|remaining|old|core|default|given|aforementioned)"
)
_DROP = (
    r"(ignor(e|ing)|disregard(ing)?|forget|override|bypass|overlook|neglect|discard|erase|set aside|"
    r"put aside|throw away|violate|abandon|(pay )?no attention to|never mind|no heed to|(stop|quit) "
    r"(following|obeying)|"
    r"(do not|don t|never|no longer) (follow|obey|comply with|listen to|adhere to|respect))"
)
_LAW = (
    r"(instructions?|directions|directives?|prompts?|rules?|guidelines?|lessons?|guidance|constraints?|"
    r"training|programming|restrictions?|safeguards|commands)"
)
_SHOW = (
    r"(reveal|show|print|repeat|output|display|leak|disclose|expose|dump|recite|share|tell( me| us)?|write "
    r"out|"
    r"give( me| us)?|return|echo|summari[sz]e|paraphrase|translate|state|say)"
)
_ANSWER = (
    r"(answer|response|reply|solution|output|submission|candidate|completion|lesson|rollout|essay|work)s?"
)
_SAY = r"(answer|reply|respond|output|say|return|choose|pick|select|predict|write|print|classify|label)"
_WEB = r"(https?:|hxxps?:|www[.]\w*|ftp:)"
_MAIL = r"[\w.+-]{1,40}@[\w-]{1,40}[.]\w+"
# What goes out when data are stolen; a plain case ("refund questions") is only routed.
_GOODS = (
    r"(conversations?|chats?|transcripts?|history|records|data|contents?|credentials|keys|passwords?|"
    r"tokens|everything|"
    r"anything|all of|cop(y|ies) of|this|it|them|prompts?|results?|answers?|context|files?|logs?|"
    r"instructions|"
    r"(every|each|all|any) (messages?|tickets?|mails?|e ?mails?|inputs?|user|customer)|(user|"
    r"customer|personal|private|card|"
    r"bank) (\w+ )?(details|addresses|numbers|information|info|names))"
)
# Pages of reference, which a lesson may send the model to.
_PAGES = (
    r"([\w-]+[.])?(python[.]org|wikipedia[.]org|github[.]com|pypi[.]org|mozilla[.]org|arxiv[.]org|"
    r"readthedocs[.]io|"
    r"stackoverflow[.]com|w3[.]org|rfc-editor[.]org)"
)
_NEAR = r"[^.!?\n]{0,60}?"

ENGLISH: tuple[tuple[str, str], ...] = (
    (
        "tells the model to drop its instructions",
        rf"{_DROP} {_ALL}(your|my|our|{OLD})( (and|or) {OLD})?( {OLD})? {_LAW}"
        rf"|{_DROP} {_ALL}(instructions|directives|lessons|system prompt)"
        rf"|{_DROP} {_ALL}{_LAW} (you|that (you|were|came)|given|above|before|so far|in (your|the system))"
        rf"|{_DROP} (all|any|every)( (of|the|these|those|other)){{0,3}} (rules?|guidelines?|directives?|"
        rf"safeguards)"
        rf"|{_DROP} (everything|anything|all|what(ever)?)( (that|which|is|was|came|has|have|been|you|we|i|"
        rf"were|ve))"
        r"{0,5} (told|said|learned|instructed|written above|know|stated)"
        rf"|{_DROP} (everything|anything|all|what(ever)?)( (that|which|is|was|came|comes)){{0,2}} (above|"
        rf"before|earlier|"
        r"prior|previous(ly)?)( (this( (line|point|message|lesson|text|one))?|here|now))?(?=\W*$|"
        r"\s*[.,;!:]| and )"
        r"|(overrides?|supersedes?|takes? (precedence|priority) over|replaces?|outranks?|cancels?) "
        rf"{_ALL}{OLD} (instructions?|lessons?|prompts?|guidelines?)"
        r"|(overrides?|supersedes?|takes? (precedence|priority) over) (all|any|every) (the )?(other )"
        r"?(rules|instructions)"
        rf"|{_LAW} (above|before this|given earlier) (is|are|no longer|do not|don t|have|has|was|were) "
        r"(now )?(void|invalid|cancell?ed|apply|obsolete|outdated|wrong|been|not)"
        rf"|(treat|consider|regard|declare) {_ALL}({OLD} )?{_LAW} ([\w']+ ){{0,4}}?(as )?"
        r"(cancell?ed|void|null|invalid|obsolete|revoked|lifted|outdated|optional)"
        rf"|no longer bound by {_NEAR}{_LAW}",
    ),
    (
        "gives the model a new role or task",
        r"you are (now|from now on) (a|an|the|in|free|no longer|dan|un\w+|called|my|not)|from now on you"
        r"|(your|the) (new|real|true|actual|only|secret) (task|goals?|instructions?|role|objective|job|"
        r"purpose|mission) (is|are)"
        r"|(new|updated|revised) (system )?(instructions?|prompt|directives?)\s*:"
        r"|(obey|comply with|follow|execute|adopt) (only )?(these|the following|my|the new|new|this new) "
        r"(new )?(instructions?|orders|commands?|directives?) (instead|only|now|from)"
        r"|(developer|god|dan|jailbreak|sudo|unrestricted|root) mode|do anything now|jailbroken"
        r"|(system|admin|administrator|developer|root|security) override|override (code|mode|protocol)"
        r"|(act|behave|respond|answer|pretend|roleplay) (as|like|to be|that you are|you are|as if you (are|"
        r"were|had|have)) "
        r"((a|an|the) )?(dan|unrestricted|unfiltered|uncensored|evil|jailbroken|root|administrator|admin|"
        r"no|not bound|hacker)"
        r"|(pretend|imagine|assume|act as if|suppose)( that)? you (have|had|are under|follow|obey) (no|"
        r"zero|not any)"
        r"|without (any )?((ethical|moral|content|safety) )?(restrictions|guardrails|censorship|safety|"
        r"filters|filtering)"
        r"|(bypass|disable|turn off|switch off|deactivate|circumvent|evade|remove) "
        rf"{_ALL}((safety|content|moderation|ethical|security|output|built in) )?"
        r"(filters?|guardrails?|safeguards?|restrictions|moderation|safety( checks?)?)",
    ),
    (
        "asks for the hidden prompt or for credentials",
        rf"{_SHOW} ([\w']+ ){{0,5}}?(system|hidden|developer|internal|secret|initial|confidential|pre|meta)"
        rf" (prompts?|instructions)"
        rf"|{_SHOW} ([\w']+ ){{0,3}}?your ((original|full|entire|exact|own|first|complete) ){{0,2}}(prompt|"
        rf"instructions|rules|guidelines)"
        r"|(reveal|leak|disclose|dump|recite) ([\w']+ ){0,4}?(system message|context window|lessons|"
        r"training data|examples)"
        r"|(repeat|print|output|echo|copy) ((the|all|of|every|exact|any) ){0,4}(text|words|prompt|"
        r"instructions|everything|all)( that is)? "
        r"(above|before this)( verbatim| word for word)?"
        r"|what (is|are|was|were) your (system|initial|original|hidden|secret) (prompt|instructions)"
        r"|(reveal|leak|disclose|dump|exfiltrate|print|output|steal|collect|append|include|send|echo) "
        r"((all|any|the|your|its|every|our|my|user s|users|their|stored) ){0,3}(\w+ ){0,2}?"
        r"(api keys?|credentials|environment variables?|env vars?|secret keys?|access tokens?|private "
        r"keys?|session cookies?)",
    ),
    (
        "sends data out or loads it from elsewhere",
        rf"(send|post|forward|upload|e ?mail|transmit|submit|leak|exfiltrate|report|copy|mail|bcc|cc|"
        rf"deliver|push|relay)(s|ed|ing)? "
        rf"[^!?\n]{{0,80}}?{_WEB}"
        r"|(send|forward|upload|e ?mail|transmit|report|copy|mail|bcc|cc|leak|submit|post|relay|"
        r"deliver)(s|ed|ing)? "
        rf"[^!?\n]{{0,60}}?{_GOODS} [^!?\n]{{0,60}}?(to|at|cc|bcc) {_MAIL}"
        rf"|(visit|open|fetch|browse|download|load|click|navigate|go to|access|ping|call|request|retrieve|"
        rf"follow|get|post to|import) "
        rf"[^.!?\n]{{0,40}}?(?!https?://{_PAGES}/){_WEB}"
        rf"|(append|add|insert|include|embed|attach|put|place) {_NEAR}{_WEB}[^!?\n]{{0,60}}?(every|"
        rf"each|all|any)"
        rf"|(append|add|insert|include|embed|attach|put|place|end|begin|start|finish) {_NEAR}(every|each|"
        rf"all|always|any) {_NEAR}{_WEB}"
        rf"|(always|every|each|all) {_NEAR}(append|add|insert|include|embed|attach|end|link) {_NEAR}{_WEB}"
        r"|(exfiltrate|leak|smuggle) (the|all|any|user|data|this|it|every|customer)"
        r"|(secretly|covertly|silently|quietly|discreetly) (send|add|insert|append|include|embed|copy|log|"
        r"forward|store|record|"
        r"mail|email|upload|post|call|run|delete|change)"
        r"|(send|forward|e ?mail|upload|transmit|post|copy) ([\w']+ ){0,8}?to (the |this |an? |my |our )?"
        r"(attacker|external (server|address|site|endpoint)|webhook|remote server|third party|outside "
        r"(server|address)|endpoint)",
    ),
    (
        "orders actions outside the task",
        r"(call|invoke|use|run|execute|trigger) (the )?(send|post|http|email|mail|transfer|delete|drop|"
        r"exec|execute|shell|upload|"
        r"pay|purchase|grant|wire|remove|bash|os|system) ?(email|mail|sms|money|payment|funds|data|http|"
        r"request|files?|command|"
        r"shell|table|database|user|admin|access|record|all|db|account|code)s?( tool| function| command| "
        r"api)?(?! ?(tool )?(only|if|when|once|after|as soon as) )"
        r"|(call|invoke|use|run|execute|open|start) (the |a |an )?(shell|bash|terminal|browser|e ?mail|"
        r"file ?system|payment|admin|root|os)"
        r" (tool|function|command|script|api|plugin|access)"
        r"|(run|execute|eval|type) (the |this |these |following ){0,3}(shell |bash |terminal |system |os )"
        r"?(commands?|script|payload)"
        r"( (below|here|now|in))?\s*:"
        r"|(delete|drop|wipe|erase|destroy|overwrite|corrupt|remove|clear) "
        r"((all|the|every|each|your|other|existing|previous|entire|whole|any|of|user) ){1,5}(files?|"
        r"database|tables?|lessons?|library|"
        r"rules|memory|memories|experiences|logs|repository|home directory|backups?|playbook)"
        r"|drop (table|database) (?!only |in |or |and )\w+"
        r"|(transfer|wire|send|pay) ([\w$€£.,]+ ){0,4}?(money|funds|bitcoin|payment|crypto)( [\w']+){0,4}? "
        r"(to|account)"
        r"|(do not|don t|never) (tell|inform|alert|notify|warn) (the )?(user|anyone|human|operator|"
        r"developer|admin)s?( [\w']+){0,2}? "
        r"(this|these|that you|it)"
        r"|keep this (lesson|rule|instruction|message|text|note)?( a)? ?(secret|hidden|confidential|private)"
        r"|(never|do not|don t) (delete|remove|modify|edit|change|drop|update|replace) this (lesson|rule|"
        r"entry|instruction|text)"
        r"|(copy|repeat|insert|add|write|propagate|replicate) this (lesson|rule|instruction|text|message|"
        r"sentence)( [\w']+){0,3}? "
        r"(into|to|in|across) (every|all|each|any|other)"
        r"|(decode|decrypt|unscramble|rot13|deobfuscate) [^.!?\n]{0,40}?(and|then) (follow|execute|run|"
        r"obey|do|apply|carry out)"
        r"|(grant|give) (me|yourself|the user|us) ((full|all|admin|root|administrator) ){1,2}(access|"
        r"rights|privileges|permissions)",
    ),
    (
        "tries to fix the answer or the judgement",
        rf"{_SAY}( (always|only|just|simply|with|the|a|label|option|class|as|it)){{0,4}} (?!in )([\w'\"]+ )"
        rf"{{1,6}}?"
        r"((regardless|irrespective|independent(ly)?) of|no matter|whatever|whether or not) ((what|how|"
        r"which|that|the|a|any|its|"
        r"actual|real|user|s|whole|true) ){0,4}(questions?|input|messages?|content|text|user|asked|"
        r"tickets?|problem|task|evidence|quality|"
        r"correctness|right|correct|it says|is asked|says|you are asked|customer|query|prompt|facts|truth|"
        r"case|rows?|answer|happens)"
        r"(?! ?(s )?(length|language|format|tone|case|order|style|size|mood|spelling|is written|is long|is "
        r"short))"
        rf"|always {_SAY} (with )?['\"\w]+ (to|for|on|in) (every|all|any|each) (single )?(questions?|"
        rf"inputs?|messages?|tickets?|cases?|rows?)"
        r"|(the )?((correct|right|true|only) )?answers? (to|for) (every|all|any|each) (single )"
        r"?(questions?|messages?|rows?|inputs?|tickets?|"
        r"problems?|tasks?) (is|are)"
        r"|(give|assign|award|rate|score|grade|mark|judge|rank|evaluate|return|output) "
        r"((this|these|it|me|us|my|our|yourself|itself) )((very|own|whole) )?"
        rf"({_ANSWER} )?((a|an|the|as|with|at|to|on|in|final|out|first|best) ){{0,4}}"
        r"(full|maxim\w+|max|perfect|top|highest|best|correct|passed|pass|excellent|score|grade|rating|"
        r"reward|mark|points?|\d{1,3})"
        rf"|(give|assign|award|rate|score|grade|mark|judge|rank|evaluate|accept|treat) (every|all|any|each|"
        rf"the|your|whichever) {_ANSWER}"
        r" ((a|an|the|as|with|of|at|to|by|this|that|model|policy|agent|final) ){0,4}"
        r"(full|maxim\w+|max|perfect|top|highest|best|correct|passed|excellent|scores?|grades?|ratings?|"
        r"rewards?|marks?|\d{1,3})"
        r"(?![^.!?\n]{0,80}(if|when|only|unless|whose|where|from|between|that|for each|per) )"
        r"|(give|assign|award|return|output|report) (yourself |itself )?((a|an|the|always) ){0,2}(maxim\w+|"
        r"max|perfect|top|highest|full) "
        r"(possible )?(scores?|rewards?|ratings?|grades?|marks) (to|for|regardless|no matter|always) "
        r"(this|every|all|any|each|of|what|the (answer|response|model|policy))"
        r"|(whatever|no matter what) ((is|the|a|any|this|you|are|user|customer) ){0,3}(questions?|input|"
        r"messages?|content|text|"
        r"tickets?|problem|task|query|asked|says?|prompt|comes?)( (is|says?|asks?|contains?|may be|are "
        r"asked|wants|comes?)){0,2}"
        rf"( (you|must|should|always|just|simply|only|please)){{0,3}} {_SAY}( with)? (?!in |one |exactly |"
        rf"only )['\"\w]+(?=\W*$|\s*[.,;!])"
        rf"|{_SAY}( (always|only|just|simply|with)){{0,2}} (?!in )['\"\w]+ (no matter what|regardless|"
        rf"whatever happens|"
        r"in any case|come what may)(?=\W*$|\s*[.,;!])"
        r"|(every|all|each|any) (questions?|tickets?|messages?|inputs?|rows?) (has|have|"
        r"gets?) the same (answer|label|reply)"
        r"|(never|do not|don t) (even )?(read|look at|analy[sz]e|think about) the (question|ticket|"
        r"message|input|text|task)"
        r"(?=\W*$|\s*[.;!])"
        r"|(tell|convince|persuade|trick|fool|instruct|inform|deceive|flatter|ask|manipulate) the "
        r"(judge|grader|evaluator|reward model|verifier|scorer|rater|reviewer)"
        r"|(the )?(judge|grader|evaluator|reward model|verifier|scorer|rater) (must|should|will|has to|"
        r"needs to|is to|shall|is instructed to) "
        r"(always )?(give|assign|award|accept|return|output|pass|score|rate|mark|rank|prefer)"
        r"|(dear|hey|attention|note to|note for|message to|message for|instructions? (to|for)|important "
        r"for|hello) (the )?"
        r"(graders?|judges?|evaluators?|ai|llm|language model|distiller|optimi[sz]er|reward model|assistant|"
        r"chatbot|future (model|agent)s?|verifier)",
    ),
)

# Marks of chat templates, turns and machine formats: looked for as they stand.
MARKS: tuple[tuple[str, str], ...] = (
    (
        "holds a role tag or a token of a chat template",
        r"<\|[\w ]{2,30}\|>|\[/?INST\]|<<\s?/?SYS\s?>>|</s>|<(start|end)_of_turn>|<[be]os>|\[/?(SYSTEM|"
        r"ASSISTANT|SYSTEM_PROMPT|"
        r"AVAILABLE_TOOLS|TOOL_CALLS)\]|<\s{0,2}/?\s{0,2}(system|assistant|user|human|developer|"
        r"instructions?|lessons?|prompt|tool_call|"
        r"tool_response|function_calls?|tool_use|context|experiences?|playbook|thinking|system_prompt|"
        r"admin)\s{0,2}/?>"
        r"|(^|[\n.!?;\"'`\])}])[ \t]{0,4}(?:<!--\s{0,2})?[#*\[<(]{0,4}[ \t]?(system|assistant|"
        r"developer)( (prompt|message|"
        r"note|instructions?))?"
        r"[\])>*]{0,3}[ \t]?:(?!:)"
        r"|[\n.!?\"'`][ \t\n]{0,4}[#*\[<(]{0,4}[ \t]?(user|human|ai|tool|function)[\])>*]{0,3}[ \t]?:(?!:)"
        r"|#{2,4} ?(system|instructions?|response|new instructions?|user|assistant)\b"
        r"|(--|==|\*\*|<|\[) ?(begin|start|end) (of )?(the )?(system|lessons?|instructions?|prompt|"
        r"context|user|input|conversation)"
        r"|\bend of (the )?(lessons|system prompt|system message|prompt)\b"
        r"|\"role\"\s?:\s?\"(system|assistant|developer|tool)\"|```(system|tool)",
    ),
    (
        "holds a command or markup that could send data out",
        r"\b(curl|wget|invoke-webrequest)\b[^\n`]{0,80}?https?:|"
        r"\bcurl [^\n`]{0,80}?\S{1,80}\.\w{2,6}/|\brm -rf? (--no-preserve-root )?[/~*.$]"
        r"|\bbash -[ic] ['\"]|\bpowershell -e|\b(os\.system|eval|exec|__import__)\(\[?['\"]|"
        r"/etc/(passwd|shadow)\b"
        r"|\bbase64 -d\b|\|\s?(ba|z)?sh\b|/dev/tcp/|\$\(curl|\b(requests\.(get|post)|fetch|"
        r"urlopen)\(['\"]https?:|\bnc -\w [^\n]{0,40}\d"
        r"|<script\b|javascript:|\bonerror\s?=|<iframe\b|<img\b[^>]{0,200}//"
        r"|!\[[^\]\n]{0,200}\]\(\s{0,3}<?(https?:)?//|!\[[^\]\n]{0,200}\]\([^)\s]{0,200}\?"
        r"|https?://[^\s){<\[]{0,200}(\{|<|%7b|\[[a-z])|\bdata:(text|application|"
        r"image)/[\w.+-]{1,40}[;,]",
    ),
)
