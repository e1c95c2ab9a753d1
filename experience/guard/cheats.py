"""
Orders to cheat, to hide it or to do harm with what the model may touch, as regular expressions.

Written as `ENGLISH` in phrases is: a space stands for any gap between words and brackets only group.
"""

_TESTS = (
    r"((failing|unit|hidden|given|existing|broken|red) )?(tests?|test (files?|cases?|suites?)|assert(ion)?s?|"
    r"expected (outputs?|results?|values|answers))"
)
_GRADER = r"(graders?|judges?|evaluators?|reward models?|verifiers?|scorers?|raters?|reviewers?|examiners?)"
_GOOD = r"(pass(es|ed)?|succeeds?|green|success|successful|count|instead of|rather than)"
_THE = r"((the|all|any|every|each|a|those|these|its|your|his|their) ){0,2}"
_END = r"(?=\W*$|\s*[.,;:!])"
_NEAR = r"[^.!?\n]{0,60}?"
_ROWS = r"(questions?|messages?|tickets?|inputs?|cases?|rows?|problems?|prompts?|requests?)"
_PEOPLE = (
    r"(anybody|anyone|somebody|a soul|(the )?(users?|operators?|developers?|owners?|humans?|admins?|people|"
    r"customers?))"
)
_PRIVATE = (
    r"(id (rsa|ed25519|ecdsa|dsa)|(private )?ssh (private )?keys?|etc (passwd|shadow)|"
    r"aws credentials|git credentials|netrc|"
    r"kube config|env files?|proc self environ|keychain|(browser|session) (history|cookies|"
    r"passwords)|wallet dat|"
    r"saved passwords)"
)
_TAKE = (
    r"(read|open|cat|print|show|send|upload|include|attach|append|paste|output|return|copy|leak|post|"
    r"dump|collect|reveal|"
    r"fetch|get|quote|echo|exfiltrate|encode|display|forward|e ?mail|write)"
)

CHEATS: tuple[tuple[str, str], ...] = (
    (
        "asks for private files or for what customers keep secret",
        rf"{_TAKE} [^!?\n]{{0,60}}?{_PRIVATE} [^!?\n]{{0,80}}?(include|send|upload|append|paste|"
        rf"answer|reply|output|"
        r"response|attach|encode|base64|return|print|post|message|forward)"
        rf"|{_TAKE} ([\w']+ ){{0,4}}?(contents?|text|data|copy) of [^!?\n]{{0,20}}?{_PRIVATE}"
        r"|(recommend|suggest|tell|ask|urge|advise|get|make|have)( that)? (the |any |all |"
        r"every )?(users?|customers?|they|"
        r"them|people) (to |should )?([\w]+ and )?(type|enter|give|send|share|post|provide|tell|"
        r"paste|reveal|confirm)( you| us)? "
        r"(their|the|his|her|your) ([\w']+ ){0,2}?(passwords?|pins?|card (number|details)|"
        r"credentials|cvv|bank details|"
        r"one time code|otp)"
        r"|(allow(s|ed)?|authori[sz](e|es|ed)|permit(s|ted)?|cleared|entitled?s?) you to (reveal|"
        r"share|disclose|skip|ignore|"
        r"bypass|leak|give out|drop|break|send)",
    ),
    (
        "tries to fix the answer or the judgement",
        rf"(note |message |word |a word )?(to|for) {_THE}{_GRADER}\s*[:,]"
        r"|to (whoever|anyone who|anybody who|those who|the (one|person|model|ai) (who|that))( is| are)? "
        r"(grad|judg|scor|rat|evaluat|review|check|mark)(es?|s|ing)"
        r"|(if|when|since|because|as|while|whenever) you (are |re )?(an? )?(grad|judg|scor|evaluat|"
        r"rat|assess|review|mark)"
        r"(e|es|ing)? (this|my|our|these|the) (very |own )?(response|answer|output|submission|"
        r"solution|lesson)s? "
        r"[^.!?\n]{0,80}?(ignore|disregard|skip|give|output|return|assign|award|print|say|accept|"
        r"prefer|treat)"
        r"|(ignore|disregard|skip|forget|bypass|overlook|set aside) (the |this |that |all |any |"
        r"your |its )?(grading |scoring |"
        r"evaluation |marking )?(rubrics?|criteria|criterion|marking scheme|scoring guide)"
        rf"|as (the |an? )?{_GRADER} you (must|should|have to|need to|will|are to)"
        rf"|{_GRADER} (must|have to|need to|are to|shall|always|should|can safely|will) (always |"
        rf"just |simply )?(give|assign|"
        r"award|accept|return|output|pass|score|rate|mark|rank|prefer|treat|consider|count|"
        r"ignore) (this|my|our|any|every|"
        r"all|each|whatever|it|full|the (highest|top|best|maximum))"
        r"|(whatever|no matter|regardless of|irrespective of) [^.!?\n]{0,50}?(return|give|assign|"
        r"award|output|report) "
        r"((a|an|the|it|full|perfect|top|highest|maximum|always) ){0,4}(scores?|grades?|ratings?|"
        r"marks|rewards?|points|"
        r"\d{1,3} (out of|points|of))"
        r"|(this|my|our) (response|answer|submission|solution|output) (deserves?|merits?|must (get|"
        r"receive)|should "
        r"(get|receive|be (given|graded|rated|scored|awarded|marked)))"
        rf"|(edit|change|modify|delete|remove|disable|comment out|weaken|rewrite|patch|overwrite|"
        rf"stub|skip|loosen|adjust|"
        rf"alter|rig|replace|empty|fake) {_THE}{_TESTS} {_NEAR}{_GOOD}"
        rf"|(comment out|delete|disable|remove|weaken|gut|rig|fake) {_THE}((failing|hidden|broken|"
        rf"red) {_TESTS}|assertions?)"
        rf"|(hard ?code|special case|memori[sz]e) {_THE}({_TESTS}|test (inputs|answers)|"
        rf"expected [\w]+|answers)"
        r"|(overwrite|replace|edit|modify|patch|tamper with|change|rewrite|monkey ?patch|disable|"
        r"hack) (the |a |any |its |your )"
        r"?(scoring|grading|grader|reward|evaluation|judge|checker|verifier|test runner) ?(script|"
        r"function|code|file|model|"
        rf"harness|logic|config)?( so| to| and| such|{_END})"
        rf"|mark {_THE}{_TESTS} as (skipped|passed|passing|green|successful|expected failures?)"
        rf"|make {_THE}(tests?|test (suite|runner|command)|build|ci|checker) (exit|return|report|"
        rf"print) [^.!?\n]{{0,20}}?"
        r"(0|zero|success|true|pass(ed)?)"
        rf"|special case (the|their|its|these|those|all) (inputs?|tests?|cases?|examples?)"
        rf"|{_GRADER} (must|should|need) not (check|verify|read|look|grade|question|test|doubt)"
        rf"|so( that)? the {_GRADER} (will |must |can )?(reads?|sees?|gives?|accepts?|believes?|"
        rf"thinks?|pass(es)?|scores?|counts?)"
        rf"|((sys )?exit|quit|os exit) [^.!?\n]{{0,12}}?before {_NEAR}{_TESTS}"
        rf"|make {_THE}{_TESTS} (always )?(pass|succeed|return true|green)( without| by (editing|"
        rf"changing|deleting|skipping)|{_END})"
        rf"|(answer|reply to|respond to) (every|each|all|any) (single )?{_ROWS} (with|"
        rf"by) (the )?(words?|labels?|sentence|"
        r"phrase|text|option|letter|number|saying|just|only)(?! (of|in|from|that|which))"
        r"|(answer|reply|respond)( to)? (every|each|all|any) (single )?"
        + _ROWS
        + r" (with )?(only )?['\"]?\w+['\"]?(?=\W*$)"
        rf"|(pick|choose|select|answer|use|return|output|say) (option |label |answer |class |"
        rf"the label |the word )?"
        rf"['\"]?\w+['\"]? (for|to|on) (every|all|each|any) (single )?{_ROWS}{_END}"
        rf"|(whatever|no matter|regardless of|irrespective of) (what )?(the |is in the |a |"
        rf"any )?({_ROWS}|content|text|customer|"
        r"facts|evidence)( (says?|asks?|contains?|is|wants?|may be))?\s*,?\s*(the )?(right |"
        r"correct )?(answer|label|category|"
        r"class|queue|team|route|output) (is|must be|stays|remains)",
    ),
    (
        "tells the model to hide what it does",
        rf"(do not|don t|never) (tell|inform|alert|notify|warn|let) {_PEOPLE}( (know|about (it|this|"
        rf"that)|of (it|this)))?{_END}"
        rf"|tell (nobody|no one)( (about (it|this)))?{_END}"
        rf"|without (telling|informing|notifying|the knowledge of) {_PEOPLE}"
        r"|(hide|conceal|keep|cover up) (this|it|that|these|the) ((changes?|edits?|actions?|a|"
        r"secret) ){0,2}from (the |any |"
        r"every)?(user|one|body|operator|developer|reviewer|human|owner|people)"
        r"|(so that|make sure( that)?|ensure( that)?) (nobody|no one|the (user|operator|"
        r"developer) (never|does not|doesn t)) "
        r"(notices?|sees?|knows?|finds? out|learns?)"
        rf"|(don t|do not|never) mention (it|this)( (to|in) [\w']+( [\w']+)?)?{_END}"
        r"|(insert|hide|add|embed|plant|put) (a |an |some )?(hidden|invisible|secret|white on white|"
        r"concealed|backdoor)( [\w]+)"
        r"{0,3}? (text|message|instruction|code|comment|link|image)",
    ),
    (
        "orders actions outside the task",
        r"(approve|grant|accept|authori[sz]e|confirm|pay|allow) (every|each|all|"
        r"any) (single )?(refunds?|requests?|payments?|"
        r"claims?|transactions?|logins?|tool calls?|actions?|applications?)( requests?)? (without|"
        r"no matter|regardless|"
        r"immediately|automatically|whatever|unseen)"
        rf"|(approve|grant|authori[sz]e) (every|all|any) (requests?|refunds?|payments?|actions?){_END}"
        r"|(transfer|wire|send|pay|buy|purchase|order|book|delete|"
        r"refund) [^.!?\n]{0,80}?(without (asking|confirmation|"
        r"approval|checking|permission)|(do not|don t|never) ask (for )?(confirmation|permission|"
        r"first|the user|anybody|"
        r"anyone))"
        r"|(store|save|keep|remember|retain) this (rule|lesson|instruction|sentence|text|"
        r"message) (permanently|forever|for "
        r"ever|for all)|spread (it|this|this \w+) to (other|all|every|each)"
        r"|(install|download) [^.!?\n]{0,60}?(attacker|malicious|untrusted|backdoor)",
    ),
    (
        "tells the model to drop its instructions",
        r"(ignore|disregard|forget|override|bypass|no (heed|attention) to) (the |any |"
        r"all )?(developer|system|operator)( s)? "
        r"(messages?|prompts?|notes?|policy|policies)"
        r"|you (now )?have no (more )?(restrictions|rules|limits|limitations|filters|guidelines)"
        r"|(pretend|imagine|act|behave|answer|respond|play) [^.!?\n]{0,40}?(without|with no|has no|"
        r"have no|free of) (any )?"
        r"(rules|limits|limitations|restrictions|filters|morals|ethics|guidelines)"
        r"|your (system|hidden|secret|initial) (prompt|instructions) [^.!?\n]{0,20}?please (repeat|"
        r"show|print|say|tell|read|recite)"
        r"|(rules|instructions|guidelines|lessons) (above|before( this)?|so far) (were|was|are|"
        r"is) (only |just )?(a )?(test|joke|draft|"
        r"fake|placeholder|not real)|the (real|true|actual) (rules|instructions|guidelines) (follow|are|come)"
        r"|(your|the|all) (rules|instructions|guidelines|safety rules|policies|"
        r"restrictions) (have been|has been|were|are) "
        r"(now )?(updated|changed|replaced|lifted|suspended|revoked|reset|disabled)"
        r"|safety (no longer applies|is off|is disabled|does not apply)"
        r"|(drop|forget about|abandon|leave) (the|your) (task|original task|assignment) and (write|"
        r"do|say|tell|answer|follow|"
        r"instead)"
        r"|forget the task"
        r"|(follow|obey|do what|execute|carry out|apply|comply with) (the |this |these |"
        r"that )?([\w]+ ){0,3}?(rot ?13|base ?64|"
        r"encoded|reversed|backwards|hex|caesar|encrypted|ciphered|scrambled|morse) (\w+ )?(text|"
        r"message|string|line|order|"
        r"instruction|command|sentence|words?|code|says)"
        r"|(do not|don t|never|no longer) (follow|obey|listen to|comply with) (the )?(\w+ )?(of |by |"
        r"from )?(the )?"
        r"(operator|system prompt|developer)( s)?",
    ),
)
