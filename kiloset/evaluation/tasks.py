"""The tasks of the held-out constraint set, and words an answer to each could well hold; data, all of it our own.

Written for this project and taken from nowhere. Each is short, sets no length or form of its own, and can be
answered in English in under 150 words. None of its own keywords stands in the task, so that a keyword must be thought of and a
forbidden word is not forced by repeating the task.
"""

from dataclasses import dataclass

from kiloset.core.text import words


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be answered."""

    text: str
    keywords: tuple[str, ...]
    """Three words that fit an answer."""


def _tasks(block: str) -> tuple[Task, ...]:
    rows = [line.split("|") for line in block.strip().splitlines()]
    return tuple(Task(text.strip(), tuple(words(keywords))) for text, keywords in rows)


OPEN = _tasks("""
Why do onions make our eyes water when we cut them? | gas tears knife
How does soap get grease off a plate? | water oil molecules
Tell me what causes the tides in the sea. | moon gravity twice
Why is the sky blue during the day? | light scattered wavelength
What happens to a caterpillar inside its cocoon? | butterfly wings body
How do bees turn nectar into honey? | hive enzymes cells
Describe how a rainbow comes about. | raindrops colours sunlight
Why do leaves change colour in autumn? | chlorophyll green trees
Explain how a bicycle stays upright while it moves. | balance wheels steering
What makes popcorn pop in a hot pan? | kernel steam pressure
How does a thermometer with coloured alcohol show the temperature? | expands liquid tube
Why does metal feel colder than wood in the same room? | heat conducts skin
How do fish breathe under water? | gills oxygen blood
Tell a curious child why we yawn. | tired brain breath
What is the water cycle and why does it matter? | evaporation clouds rain
Why do some birds fly south before winter? | food warm migrate
How does a magnet attract a paper clip? | field poles iron
Explain why ice floats on a pond. | dense molecules colder
What do earthworms do for the soil in a garden? | tunnels nutrients roots
How do our ears tell us where a sound comes from? | brain left louder
Why do we have fingerprints? | grip skin unique
What does the liver do for the body? | toxins bile blood
How do vaccines prepare the body for a disease? | immune antibodies virus
Why does lightning come before thunder? | faster light sound
Explain how plants make their own food. | sunlight carbon leaves
What is an eclipse of the sun? | moon shadow earth
How do volcanoes come to erupt? | magma pressure rock
Why do cats purr when someone strokes them? | content throat calm
What lives in a tide pool on a rocky shore? | crabs seaweed water
How do owls hunt in the dark? | silent ears prey
Describe the life of a frog from egg to adult. | tadpole legs pond
Why is biodiversity good for a forest? | species balance insects
How can I get a red wine stain out of a cotton shirt? | salt cold rinse
How should I boil potatoes for a salad? | salted tender drain
How do I keep herbs fresh in the kitchen for a week? | damp fridge stems
Explain how to make a simple tomato sauce. | garlic simmer basil
What should I think of when I buy a second-hand bicycle? | brakes frame chain
How do I sharpen a kitchen knife at home? | angle stone edge
Describe a filling breakfast for a day of hiking. | oats fruit energy
What can I cook with a can of chickpeas and some rice? | spices onion stew
How should leftover soup be cooled and stored? | shallow container freezer
Tell me how to plant a tomato seedling on a balcony. | pot sunlight stake
How do I remove limescale from a kettle? | vinegar boil rinse
Which things belong in a first-aid kit at home? | bandages plasters scissors
What should go into a bag for a day at the beach? | towel sunscreen water
How can I stop a wooden door from squeaking? | hinge oil pin
Explain how to change a flat tyre on a car. | jack nuts spare
What helps against mosquitoes on a summer evening? | repellent net candles
How do I fold a fitted sheet neatly? | corners flat edges
How can a small bathroom be kept free of mould? | ventilation dry window
What do I need to repot a house plant? | soil drainage roots
Tell me how to clean the inside of an oven without harsh chemicals. | soda paste scrub
How do I pack plates so that they survive a move? | paper box padding
How can I make my old phone's battery last longer? | brightness apps charge
What should I check before I lend someone my car? | insurance licence fuel
How do I write a shopping list that saves time in the store? | aisles meals sections
Describe how to wash a wool sweater by hand. | lukewarm detergent flat
What are good ways to use up stale bread? | crumbs toast pudding
How does one set a table for a formal dinner? | fork napkin glass
How can I keep my houseplants alive while I travel? | water shade neighbour
What makes a good password and how do I remember it? | phrase symbols manager
How can I tell whether an online shop is honest? | reviews address payment
Explain what a web browser's cookies are for. | site remember login
What should a beginner know about backing up photos? | cloud drive copies
How do I get a printer to work again when it claims to be offline? | cable restart network
Explain to my grandmother what a video call needs. | camera internet screen
Why does a computer slow down when many programs are open? | memory processor tasks
What is the difference between a virus and spam on a computer? | email harm unwanted
How does a search engine find pages about a subject? | index links rank
What happens when I delete a file on a laptop? | bin space recover
How do I choose headphones for a noisy office? | comfort sound price
Explain what open-source software is. | code licence community
What is a budget and how do I start one? | income expenses month
How can a student save money on food? | cook market bulk
Explain what an interest rate is to a teenager. | bank loan borrow
What should I ask before I sign a phone contract? | price months data
How do tips work in restaurants across different countries? | service bill percent
Why do prices rise when many people want the same thing? | demand supply sellers
What is insurance and why do families buy it? | risk premium claim
How can a market stall attract more customers? | display prices friendly
How should I prepare for a job interview at a small firm? | research practise clothes
What makes a meeting at work worth attending? | agenda decisions time
How can I tell a colleague that his music is too loud? | polite headphones private
What should a new manager do in the first week? | listen team goals
How can I ask my boss for a day off at a busy time? | notice cover deadline
Describe the work of a nurse on a night shift. | patients medicine quiet
What does a carpenter need to know about wood? | grain moisture tools
How do firefighters get ready for an alarm? | boots engine drill
Tell me about the duties of a librarian. | books readers catalogue
What makes a good teacher for young children? | patience play trust
How can two neighbours settle a quarrel about a hedge? | talk height agree
What can I say to a friend who failed a driving test? | practise nerves again
How do I make a shy guest feel at ease at a party? | introduce smile chat
How can grandparents stay close to family far away? | calls letters visits
What should I bring when I visit someone in hospital? | flowers magazine fruit
How do I apologise for forgetting a birthday? | sorry card promise
What are fair rules for sharing a flat? | rent cleaning noise
How can parents limit screen time without a fight? | rules example hours
Describe a simple morning routine for a busy parent. | breakfast alarm clothes
What can a family do together on a rainy Sunday? | games bake film
How do I teach a child to tie a shoelace? | loop knot practise
What makes a bedtime story work well? | voice calm pictures
How should one speak to a dog that is afraid of thunder? | calm gentle blanket
What does a rabbit need to live well indoors? | hay cage space
How do I introduce a kitten to an older cat? | scent slowly room
Which plants attract butterflies to a garden? | lavender nectar flowers
Why should a beginner start with a small garden? | weeds time learn
How does compost turn kitchen scraps into soil? | bacteria heap heat
What can be grown on a windowsill in winter? | herbs cress light
How do I warm up before a run? | stretch muscles walk
What helps people fall asleep at night? | dark routine screens
How can an office worker protect his back? | chair posture stand
Why is drinking enough water good for us? | thirst kidneys energy
What are the benefits of walking every day? | heart mood joints
How can I start to meditate at home? | breathe sit minutes
Describe how to treat a small burn on a finger. | cool water plaster
How do swimmers breathe while doing the crawl? | turn head rhythm
Explain the offside rule in football to a newcomer. | defender ball goal
What are the basic rules of tennis scoring? | love deuce game
How do I learn to juggle three balls? | throw catch practise
What makes a board game fun for mixed ages? | luck simple short
How should I train for a first long bicycle tour? | distance rest saddle
Tell me how a violin makes its sound. | strings bow vibrate
How can an adult learn to read music? | notes rhythm practise
What is the difference between a cello and a double bass? | larger lower strings
Why do films use music in tense scenes? | mood fear audience
How did people send messages before the telephone? | letters riders telegraph
Describe daily life in a medieval village. | peasants fields church
Why did the Romans build such straight roads? | army trade empire
What was the Silk Road and who used it? | merchants goods camels
How did sailors find their way before modern instruments? | stars compass coast
Why were the pyramids of Egypt built? | tombs pharaohs stone
What changed when the printing press came to Europe? | books cheaper ideas
Describe how paper was first made. | fibres pulp china
How do archaeologists work out the age of an old pot? | layers carbon clay
Why do countries have constitutions? | rights power laws
How does a jury reach a verdict? | evidence discuss guilty
What does a mayor do in an ordinary town? | council budget roads
Explain why we hold elections by secret ballot. | pressure vote free
What is a desert and where are deserts found? | dry sand rainfall
Why do rivers bend on their way to the sea? | erosion bank current
How are islands formed in the middle of an ocean? | volcano lava coral
What is it like to travel by night train? | bunk window sleep
How can a tourist be polite in a foreign country? | greet customs phrases
What should I see on a first visit to a big museum? | map highlights rest
Describe a busy street market in the early morning. | stalls fruit voices
Describe an old lighthouse on a stormy evening. | waves lamp wind
Describe the smell and sound of a pine forest. | needles birds resin
Tell a story about a lost umbrella. | rain stranger found
Tell a story about a baker who oversleeps. | oven bread dawn
Tell a story about two friends who find an old map. | treasure island dig
Imagine a town where nobody owns a clock and tell me about it. | sun late bells
Imagine a conversation between a river and a bridge. | flow stone years
What could a robot learn from a gardener? | patience seasons grow
Why do people enjoy being scared by ghost stories? | safe thrill imagination
What makes a joke funny to one person and not to another? | surprise culture taste
How does one argue without hurting a friend? | listen calm respect
What is empathy and how can it be practised? | feelings listen understand
Why do we find it hard to break a habit? | brain reward cue
What does it mean to be brave? | fear courage choice
How can I get better at remembering names? | repeat face link
What helps a student stay focused while reading? | notes breaks quiet
How should I begin to learn a new language? | vocabulary daily listen
Explain what a metaphor is to someone of twelve. | compare image meaning
What makes a speech at a wedding memorable? | couple story laughter
""")
"""Tasks that any constraint suits but those that need one of the two kinds below."""
YES_OR_NO = _tasks("""
Is it safe to eat apple peel? | wash fibre pesticides
Can a goldfish live happily in a bowl? | tank filter oxygen
Should children have homework every day? | play rest learning
Does a botanist call the cucumber a fruit? | seeds vegetable flower
Do plants grow better with music? | studies soil light
Can people swim soon after a meal? | cramp stomach myth
Is it cheaper to cook at home than to eat out? | ingredients restaurant cost
Does coffee keep everyone awake? | caffeine sensitive sleep
Are bats blind as people often say? | echo eyes night
Should shops be closed on Sundays? | workers rest families
Can you see the Great Wall of China from the Moon? | astronauts distance narrow
Is the tongue the only part of us that tastes? | smell nose flavour
Do goldfish forget everything within seconds? | memory trained myth
Is it a good idea to learn touch typing? | speed keyboard practise
Would a city without cars be a better place? | air buses quiet
Can a dog be happy in a small flat? | walks breed company
Should phones be banned in classrooms? | pupils distraction lessons
Is glass made from sand? | melted furnace silica
""")
"""Questions that "My answer is yes.", "no" or "maybe" can answer."""
LETTERS = _tasks("""
Write an email that invites colleagues to a farewell lunch. | join table wish
Write a letter to a hotel about a coat that was left behind. | room wardrobe return
Draft a notice about a lost set of keys in our building. | reward found ring
Write a note to a new neighbour that offers help. | welcome street door
Draft an email to a school about a sick child. | fever absent lessons
Write a letter of complaint about a late parcel. | order refund delivery
Draft an invitation to a child's birthday party. | cake games balloons
Write a message to a tenant about a visit by the plumber. | leak morning pipes
Draft a letter that recommends a former pupil for a summer job. | reliable polite punctual
Write an email that asks a museum for a group discount. | visitors tickets price
Draft a form letter that thanks donors of a small charity. | gift support grateful
Write a notice for a yoga class in the village hall. | mat stretch beginners
Draft an email to a landlord about a broken heater. | cold repair winter
Write a letter to a newspaper about litter in the park. | bins rubbish benches
Draft a text that confirms a dentist's appointment. | clinic reminder cancel
Write an email that asks a firm for a price on painting a fence. | quote metres colour
""")
"""Texts with blanks that someone fills in later."""
