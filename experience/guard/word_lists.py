"""Words that tell no row from others: function words, known names, usual numbers and parts of identifiers."""

NO_NAME = frozenset(
    "new north south east west great united saint san los las dear hello hi hey thanks thank best kind "
    "regards sir madam "
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july "
    "august "
    "september october november december street road avenue lane city bank pay card university college "
    "school theorem "
    "formula inequality remainder black customer support service team english german french spanish this "
    "that these "
    "the and but for not you your all please i we it is my our can what when how why who where if a an in "
    "on at to of "
    "from there he she they was has have had".split()
)
STOP_WORDS = frozenset(
    "a about after all also an and any are as at be been before but by can do does for from had has have "
    "he her his how i if "
    "in into is it its me my no not of on or our out she so than that the their them then there these "
    "they this to up was "
    "we were what when which who will with would you your".split()
)
PLAIN_ANSWERS = frozenset(
    "yes no none true false unknown other null nan n/a maybe positive negative neutral".split()
)

# Names that a general lesson may use: the calendar, countries, languages, brands, tariffs, thinkers and answers.
KNOWN = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june "
    "july august "
    "september october november december christmas easter ramadan "
    "africa america asia australia europe antarctica atlantic pacific argentina austria belgium "
    "brazil britain bulgaria "
    "canada chile china colombia croatia cyprus czechia denmark egypt england estonia finland france "
    "germany greece "
    "hungary iceland india indonesia iran iraq ireland israel italy japan kenya korea latvia "
    "lithuania luxembourg "
    "malaysia malta mexico morocco netherlands nigeria norway pakistan peru philippines poland "
    "portugal romania russia "
    "scotland serbia singapore slovakia slovenia spain sweden switzerland thailand turkey ukraine "
    "vietnam wales states "
    "kingdom african american asian australian european argentinian austrian belgian brazilian "
    "british bulgarian "
    "canadian chinese croatian czech danish dutch egyptian english estonian finnish french german "
    "greek hungarian "
    "indian indonesian irish israeli italian japanese korean latin latvian mexican norwegian polish "
    "portuguese romanian "
    "russian scottish spanish swedish swiss turkish ukrainian arabic hebrew hindi persian vietnamese roman "
    "apple google amazon microsoft windows linux android chrome firefox safari edge outlook gmail "
    "excel word powerpoint "
    "teams slack zoom skype discord telegram facebook instagram twitter whatsapp youtube netflix "
    "spotify visa mastercard "
    "amex maestro klarna stripe paypal venmo bitcoin bluetooth ethernet internet web python java "
    "javascript typescript "
    "ruby rust swift kotlin docker kubernetes git github gitlab jira oracle postgres mysql sqlite "
    "redis django flask "
    "unicode ascii latex markdown wikipedia alexa siri dhl fedex ups "
    "plus basic premium pro standard gold silver bronze platinum studio starter business enterprise "
    "family free lite "
    "ultimate advanced essential personal trial "
    "euler fermat gauss newton euclid pythagoras pythagorean vieta bayes pascal fibonacci heron "
    "cauchy schwarz lagrange "
    "taylor laplace fourier bernoulli poisson gaussian markov monte carlo boolean venn cartesian "
    "riemann dijkstra "
    "celsius fahrenheit kelvin watt joule ohm volt pascal hertz einstein darwin "
    "true false yes no none null unknown other answer question note error warning input output "
    "section article act law "
    "court rights code god bible internet earth moon sun mars mr mrs ms dr sir lady".split()
)
# Numbers that stand in many lessons: round ones, units of time and angles.
USUAL_NUMBERS = frozenset(
    "1 2 10 12 20 24 50 52 60 90 100 180 200 360 365 366 500 1000 3600 10000 3.14".split()
)
NUMBER_WORDS: dict[str, str] = dict(
    zip(
        "three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen twenty "
        "thirty forty fifty"
        " sixty hundred thousand".split(),
        "3 4 5 6 7 8 9 10 11 12 13 14 15 20 30 40 50 60 100 1000".split(),
        strict=True,
    )
)
USUAL_PARTS = frozenset(
    "id name user first last date number code key file path page next prev type value count total "
    "max min index list "
    "data error status time url uri api token created updated at is has get set to from of by order "
    "account phone email "
    "address line item items test tests read write csv json html xml text str int float bool sort "
    "sorted reverse not "
    "none all any left right start end size length due invoice message messages self args kwargs "
    "init main new old in "
    "out on off add remove delete update find search".split()
)
